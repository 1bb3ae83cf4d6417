from msgspec import structs

from common.messages import MemberStatus, Status
from compose.status_text import status_text

GATEWAY = MemberStatus("gateway", "gateway", "host", 1, "serving", 60.0, 0.31, 0.0, 512, 3, 3)
PREFILL = MemberStatus(
    "prefill-worker-0", "prefill-worker", "host", 1, "serving", 59.0, 0.12, 4.25, 32768, 8192, 2
)
BROKER = MemberStatus("kv-transfer", "kv-transfer", "host", 1, "serving", 60.0, 0.2, 0.0, 8, 1, 1)
DECODE = MemberStatus(
    "decode-worker-0", "decode-worker", "host", 1, "leaving", 7300.0, 0.44, 0.0, 65536, 640, 1
)


def test_a_mesh_is_one_line_and_one_table():
    members = (DECODE, GATEWAY, BROKER, structs.replace(PREFILL, name="prefill-worker-10"), PREFILL)
    text = status_text(Status(1, 9, 2, 4, "chunkwise, sizes 1 2 4", members))
    assert text.splitlines() == [
        "5 members, 4 requests open, 2 waiting; policy: chunkwise, sizes 1 2 4",
        "",
        "NAME               ROLE            STATE    HEARD  LOAD                USED"
        "                 BUSY WITH   DELAY     UP",
        "gateway            gateway         serving  0.3 s                      "
        "                     3 streams           60 s",
        "prefill-worker-0   prefill-worker  serving  0.1 s  [##........]  25 %  8192 of 32768 slots"
        "  2 chunks    4.2 s   59 s",
        "prefill-worker-10  prefill-worker  serving  0.1 s  [##........]  25 %  8192 of 32768 slots"
        "  2 chunks    4.2 s   59 s",
        "kv-transfer        kv-transfer     serving  0.2 s  [#.........]  12 %  1 of 8 backends"
        "      1 transfer          60 s",
        "decode-worker-0    decode-worker   leaving  0.4 s  [#.........]   0 %  640 of 65536 slots"
        "   1 request          2.0 h",
    ]


def test_numbers_in_names_count_as_numbers():
    names = ["prefill-worker-10", "prefill-worker-9", "prefill-worker-1"]
    members = tuple(structs.replace(PREFILL, name=name) for name in names)
    lines = status_text(Status(1, 9, 0, 0, "p", members)).splitlines()[3:]
    assert [line.split()[0] for line in lines] == names[::-1]


def test_what_is_known_of_the_latency_model_has_a_line_of_its_own():
    status = Status(1, 9, 0, 1, "p", (), "calibrated in 12.0 s; measured/predicted SP 1 1.02")
    assert status_text(status).splitlines() == [
        "0 members, 1 request open, 0 waiting; policy: p",
        "latency model: calibrated in 12.0 s; measured/predicted SP 1 1.02",
    ]


def test_a_mesh_without_members_is_one_line():
    empty = Status(1, 9, 0, 1, "p", ())
    assert status_text(empty) == "0 members, 1 request open, 0 waiting; policy: p"
