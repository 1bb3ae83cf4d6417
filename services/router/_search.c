/* Algorithms 1-3 of Tetris (arXiv 2511.06247) over one pool; specification, section 6.

   The same search as search.py and groups.py, operation by operation and in the same order: both
   give the same bits (hence -ffp-contract=off), and a test holds them to it. Why it is fast:

   - Each node is sorted once. Time passing keeps the order of delays, so the search carries the
     seconds passed and never changes the pool.
   - A group is a count per node, since it always holds the shortest-queued instances of a node.
     Growing one is a list of joins that can be undone; its members are written out once, for the
     answer.
   - What lies within a group has a level of its own: the nodes that the group touches, as far as
     it reaches into them. Each level remembers the delays of the groups one step ahead.
   - All memory is one block, laid out before the search, which can therefore not fail half-way.

   Nothing here knows Python: _search_module.c reads the problem and writes the answer. */

#include "_search.h"

#include <math.h>
#include <string.h>

/* ---- Latency model: common/latency.py ---- */

#define MAX_LENGTH 2147483647LL

static double predict(const Curve *curve, Tokens history, Tokens length)
{
    double n = (double)length;
    return curve->a + n * (curve->b + curve->c * (double)history + curve->d * n);
}

static Tokens solve(const Curve *curve, Tokens history, double budget)
{
    double a = curve->a, d = curve->d;
    double room = budget - a, slope = curve->b + curve->c * (double)history;
    if (room <= 0)
        return 0;
    if (slope <= 0 && d <= 0)
        return MAX_LENGTH;
    double root = 2 * room / (slope + sqrt(slope * slope + 4 * d * room));
    Tokens length = root < (double)MAX_LENGTH ? (Tokens)root : MAX_LENGTH;
#define COST(n) (a + (double)(n) * (slope + d * (double)(n)))
    while (length > 0 && COST(length) > budget)
        length--;
    while (length < MAX_LENGTH && COST(length + 1) <= budget)
        length++;
#undef COST
    return length;
}

/* ---- Algorithms: search.py ---- */

/* Keep the path and, after it, one last chunk on sizes[i] as the best plan. */
static void keep(Search *s, const Level *at, int i, double ttft)
{
    Plan *best = s->best;
    int mark = s->num_joins;
    grow(s, at, s->sizes[i]);
    best->ttft = ttft;
    best->num_steps = (int)(at - s->levels) + 1;
    best->num_joins = s->num_joins;
    memcpy(best->steps, s->path, best->num_steps * sizeof(Step));
    memcpy(best->joins, s->joins, best->num_joins * sizeof(Join));
    undo(s, mark);
}

/* Algorithm 2: which of the sizes finishes the rest first, if worth it; -1 if none ever does. */
static int close_plan(Search *s, int depth, int low, int high, Tokens history, double passed)
{
    Level *at = &s->levels[depth];
    Tokens length = s->history + s->length - history;
    double finish = INFINITY, wait = 0.0, n = (double)length;
    int best = -1;
    for (int i = s->only_last ? high - 1 : low; i < high; i++) {
        const Curve *curve = &s->curves[i];
        double delay = delay_ahead(s, at, i), waits = delay > passed ? delay - passed : 0.0;
        double ends = waits + curve->a + n * (curve->b + curve->c * (double)history + curve->d * n);
        if (ends < finish * s->keep)
            best = i, finish = ends, wait = waits;
    }
    if (best >= 0 && passed + finish < s->best->ttft) {
        s->path[depth] = (Step){
            length, s->sizes[best], wait, predict(&s->curves[best], history, length)};
        keep(s, at, best, passed + finish);
    }
    return best;
}

/* Algorithm 3: the chunk on sizes[i] that fills the wait for `following`; 0 if it does not pay. */
static int fill_gap(Search *s, int i, double delay, double following, Tokens history,
                    double passed, Step *step)
{
    double wait = delay > passed ? delay - passed : 0.0, budget = following - passed - wait;
    Tokens length = solve(&s->curves[i], history, budget);
    if (length < s->min_chunk || length >= s->history + s->length - history)
        return 0;
    *step = (Step){length, s->sizes[i], wait, predict(&s->curves[i], history, length)};
    return 1;
}

/* Algorithm 1 on sizes[low:high]: close the plan with one chunk, then try every chunk before it. */
static void explore(Search *s, int depth, int low, int high, Tokens history, double passed)
{
    Level *at = &s->levels[depth], *in = at + 1;
    int last = close_plan(s, depth, low, high, history, passed), mark = s->num_joins;
    /* Whatever fills a gap takes `least`, and no gap is longer than the last chunk's wait. */
    if (last <= low || delay_ahead(s, at, last) - passed < s->least)
        return;
    narrow(s, at, in, last);
    for (int i = low; i < last; i++) {
        in->size = at->size, in->delay = at->delay;
        in->delay = grow(s, in, s->sizes[i]);
        in->size = s->sizes[i], in->known = 0;
        for (int j = i + 1; j <= last; j++) {
            double following = delay_ahead(s, in, j);
            Step step;
            if (following <= in->delay || following <= passed ||
                !fill_gap(s, i, in->delay, following, history, passed, &step))
                continue;
            double later = passed + step.wait + step.predicted;
            if (later < s->best->ttft) {
                s->path[depth] = step;
                explore(s, depth + 1, j, last + 1, history + step.length, later);
            }
        }
        undo(s, mark);
    }
}

static void run(Search *s, int num_sizes)
{
    *s->best = (Plan){.ttft = INFINITY, .joins = s->best->joins};
    if (s->chunkwise)
        explore(s, 0, 0, num_sizes, s->history, 0.0);
    else
        close_plan(s, 0, 0, num_sizes, s->history, 0.0);
}

/* What the best plan costs: its TTFT, and the seconds for which it keeps its instances. */
static double cost(const Search *s)
{
    const Plan *plan = s->best;
    double taken = 0.0;
    for (int i = 0; i < s->num_preset; i++)
        taken += plan->ttft - s->delays[s->preset[i]];
    for (int i = 0; i < plan->num_joins; i++)
        for (int j = 0; j < plan->joins[i].count; j++)
            taken += plan->ttft - plan->joins[i].first[j].delay;
    return plan->ttft + s->price * taken;
}

/* Of the fastest plans that end with each size, the one that costs least. */
static void run_priced(Search *s)
{
    Plan *cheapest = &s->plans[1];
    double least = INFINITY;
    s->only_last = 1;
    for (int count = 1; count <= s->num_sizes; count++) {
        if (s->sizes[count - 1] < s->fewest && count < s->num_sizes)
            continue;
        run(s, count);
        double costs = cost(s);
        if (costs < least) {
            Plan *spare = cheapest;
            cheapest = s->best, s->best = spare;
            least = costs;
        }
    }
    s->best = cheapest;
}

/* ---- The problem's arrays ---- */

static void *carve(char *block, size_t *used, size_t count, size_t size)
{
    size_t start = *used;
    *used += (count * size + 15) / 16 * 16;
    return block ? block + start : NULL;
}

size_t search_layout(Search *s, char *block)
{
    size_t used = 0, all = s->num_instances, largest = s->sizes[s->num_sizes - 1];
    size_t touched = all < largest ? all : largest;
    s->delays = carve(block, &used, all, sizeof(double));
    s->node_of = carve(block, &used, all, sizeof(int));
    s->is_preset = carve(block, &used, all, 1);
    s->preset = carve(block, &used, s->num_preset, sizeof(int));
    s->queues = carve(block, &used, all, sizeof(Instance));
    s->order = carve(block, &used, all, sizeof(Instance));
    s->spare = carve(block, &used, all, sizeof(Instance));
    /* The whole pool, its copy, and a level for every further size in what a group touches. */
    s->nodes = carve(block, &used, 2 * all + s->num_sizes * touched, sizeof(Node));
    s->joins = carve(block, &used, largest, sizeof(Join));
    s->plans[0].joins = carve(block, &used, largest, sizeof(Join));
    s->plans[1].joins = carve(block, &used, largest, sizeof(Join));
    return used;
}

void search_run(Search *s)
{
    s->num_joins = s->only_last = 0;
    s->best = &s->plans[0];
    s->plans[1].ttft = s->least = INFINITY;
    s->min_chunk = s->min_chunk > 1 ? s->min_chunk : 1;
    for (int i = 0; i < s->num_sizes; i++) {
        double seconds = predict(&s->curves[i], 0, s->min_chunk);
        s->least = seconds < s->least ? seconds : s->least;
    }
    fill_pool(s);
    if (s->priced)
        run_priced(s);
    else
        run(s, s->num_sizes);
}
