/* Which instances join a group next: groups.py in C, see there and _search.c. */

#include "_search.h"

#include <math.h>
#include <string.h>

/* Stable. Most nodes are small: for each of their instances, count those before it, which has no
   branches to mispredict. */
static void sort(Instance *queue, int count, Instance *spare)
{
    int half = count / 2, left = 0, right = half;
    if (count <= 16) {
        for (int i = 0; i < count; i++) {
            double delay = queue[i].delay;
            int before = 0;
            for (int j = 0; j < i; j++)
                before += queue[j].delay <= delay;
            for (int j = i + 1; j < count; j++)
                before += queue[j].delay < delay;
            spare[before] = queue[i];
        }
        memcpy(queue, spare, count * sizeof(Instance));
        return;
    }
    sort(queue, half, spare);
    sort(queue + half, count - half, spare);
    memcpy(spare, queue, half * sizeof(Instance));
    for (int i = 0; left < half; i++)
        queue[i] = right < count && queue[right].delay < spare[left].delay ? queue[right++]
                                                                          : spare[left++];
}

static double last_delay(const Node *node)
{
    return node->cap > 0 ? node->queue[node->cap - 1].delay : 0.0;
}

/* The order in which whole nodes join. */
static int is_before(const Node *a, const Node *b)
{
    double left = last_delay(a), right = last_delay(b);
    return left < right || (left == right && a->number < b->number);
}

/* Nodes of level 0, by number. */
static void fill_nodes(Search *s, Node *nodes)
{
    Instance *queue = s->queues;
    memset(nodes, 0, s->num_nodes * sizeof(Node));
    for (int i = 0; i < s->num_instances; i++) {
        nodes[s->node_of[i]].cap += !s->is_preset[i];
        nodes[s->node_of[i]].hosts |= s->is_preset[i];
    }
    for (int n = 0; n < s->num_nodes; n++) {
        nodes[n].number = n;
        nodes[n].queue = queue;
        queue += nodes[n].cap;
        nodes[n].cap = 0;
    }
    for (int i = 0; i < s->num_instances; i++)
        if (!s->is_preset[i]) {
            Node *node = &nodes[s->node_of[i]];
            node->queue[node->cap++] = (Instance){s->delays[i], i};
        }
    for (int n = 0; n < s->num_nodes; n++)
        sort(nodes[n].queue, nodes[n].cap, s->spare);
}

void fill_pool(Search *s)
{
    Level *at = &s->levels[0];
    Node *unordered = s->nodes + s->num_nodes;
    *at = (Level){.nodes = s->nodes, .num_nodes = s->num_nodes, .size = s->num_preset};
    fill_nodes(s, unordered);
    for (int n = 0; n < s->num_nodes; n++) {
        s->order[n] = (Instance){last_delay(&unordered[n]), n};
        at->largest = unordered[n].cap > at->largest ? unordered[n].cap : at->largest;
    }
    sort(s->order, s->num_nodes, s->spare);
    for (int n = 0; n < s->num_nodes; n++)
        s->nodes[n] = unordered[s->order[n].index];
    for (int i = 0; i < s->num_preset; i++)
        if (i == 0 || s->delays[s->preset[i]] > at->delay)
            at->delay = s->delays[s->preset[i]];
}

static int may_join(const Node *node, int only_hosts)
{
    return node->held < node->cap && (!only_hosts || node->held > 0 || node->hosts);
}

/* The node that can give `need` instances and whose need-th delay is least, or NULL. */
static Node *best_fit(const Level *at, int need, int only_hosts)
{
    Node *best = NULL, *stop = at->nodes + at->num_nodes;
    double best_delay = INFINITY;
    for (Node *node = at->nodes; node < stop; node++) {
        if (node->cap - node->held < need || !may_join(node, only_hosts))
            continue;
        double delay = node->queue[node->held + need - 1].delay;
        if (delay < best_delay || (delay == best_delay && node->number < best->number))
            best = node, best_delay = delay;
    }
    return best;
}

/* Take `count` more instances of a node; the larger of their delays and `delay`. */
static double join(Search *s, Node *node, int count, double delay)
{
    s->joins[s->num_joins++] = (Join){node, node->queue + node->held, count};
    node->held += count;
    double last = node->queue[node->held - 1].delay;
    return last > delay ? last : delay;
}

/* From the nodes that host the group, or from all: whole nodes until one can give the rest. */
static double fill(Search *s, const Level *at, int *need, int only_hosts, double delay)
{
    Node *node = at->nodes, *stop = node + at->num_nodes, *fit;
    while (*need > 0) {
        if (*need <= at->largest && (fit = best_fit(at, *need, only_hosts)) != NULL) {
            delay = join(s, fit, *need, delay);
            *need = 0;
            break;
        }
        while (node < stop && !may_join(node, only_hosts))
            node++;
        if (node == stop)
            break;
        int left = node->cap - node->held;
        delay = join(s, node, left, delay);
        *need -= left;
    }
    return delay;
}

double grow(Search *s, const Level *at, int size)
{
    int need = size - at->size;
    double delay = at->delay;
    if (at->size > 0)
        delay = fill(s, at, &need, 1, delay);
    return fill(s, at, &need, 0, delay);
}

void undo(Search *s, int num_joins)
{
    while (s->num_joins > num_joins) {
        Join *join = &s->joins[--s->num_joins];
        join->node->held -= join->count;
    }
}

double delay_ahead(Search *s, Level *at, int i)
{
    if (!(at->known >> i & 1)) {
        int mark = s->num_joins;
        at->ahead[i] = grow(s, at, s->sizes[i]);
        at->known |= 1ULL << i;
        undo(s, mark);
    }
    return at->ahead[i];
}

void narrow(Search *s, const Level *at, Level *in, int i)
{
    int mark = s->num_joins, kept = 0;
    in->nodes = at->nodes + at->num_nodes;
    in->num_nodes = at->num_nodes;
    in->size = at->size, in->delay = at->delay, in->largest = at->largest;
    memcpy(in->nodes, at->nodes, at->num_nodes * sizeof(Node));
    grow(s, in, s->sizes[i]);
    s->num_joins = mark;
    in->largest = 0;
    for (int j = 0; j < at->num_nodes; j++) {
        Node node = in->nodes[j];
        int place = kept;
        if (node.held == 0)
            continue;
        node.cap = node.held;
        node.held = at->nodes[j].held;
        in->largest = node.cap > in->largest ? node.cap : in->largest;
        for (; place > 0 && is_before(&node, &in->nodes[place - 1]); place--)
            in->nodes[place] = in->nodes[place - 1];
        in->nodes[place] = node;
        kept++;
    }
    in->num_nodes = kept;
}
