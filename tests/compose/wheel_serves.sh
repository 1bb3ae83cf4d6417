#!/usr/bin/env bash
# Build the wheel, install it into an empty environment, start the mesh there and let it answer.
# Environment: PYTHON, TORCH (requirement), TETRIS_TEST_PORT.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
port=${TETRIS_TEST_PORT:-18080}
work=$(mktemp -d)
mesh=""
finish() {
  if [ -n "$mesh" ]; then kill -TERM "$mesh" 2>/dev/null || true; wait "$mesh" || true; fi
  rm -rf "$work"
}
trap finish EXIT

echo "building"
git clone -q "$root" "$work/source"
"${PYTHON:-python3.11}" -m venv "$work/venv"
pip() { "$work/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip wheel -qq --no-deps -w "$work" "$work/source"
echo "installing into an empty environment"
pip install -qq "$TORCH"
pip install -qq -c "$root/constraints.txt" "$work"/tetris_serve-*.whl
mkdir "$work/elsewhere"
cd "$work/elsewhere"
"$work/venv/bin/tetris" --version

echo "starting"
"$work/venv/bin/tetris" up --port "$port" >"$work/log" 2>&1 &
mesh=$!
for _ in $(seq 300); do
  grep -q '| ready in' "$work/log" && break
  kill -0 "$mesh" 2>/dev/null || { cat "$work/log"; exit 1; }
  sleep 1
done
grep '| ready in' "$work/log" || { cat "$work/log"; exit 1; }
answer=$(curl -sS --max-time 120 "http://127.0.0.1:$port/v1/chat/completions" \
  -H 'Content-Type: application/json' -d '{"model": "SmolLM2-135M-Instruct", "temperature": 0,
  "max_tokens": 16, "messages": [{"role": "user", "content": "What is the capital of France?"}]}')
echo "$answer"
case "$answer" in *Paris*) ;; *) echo "no Paris in the answer" >&2; tail -50 "$work/log"; exit 1;; esac

kill -TERM "$mesh"
status=0
wait "$mesh" || status=$?
mesh=""
[ "$status" -eq 0 ] || { echo "tetris up ended with $status" >&2; tail -50 "$work/log"; exit 1; }
echo "the wheel serves"
