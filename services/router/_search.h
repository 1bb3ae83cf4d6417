/* One search: _search_module.c fills it in, _search.c and _groups.c solve it. */

#ifndef TETRIS_SEARCH_H
#define TETRIS_SEARCH_H

#include <stddef.h>

#define MAX_SIZES 64           /* as schedule.sp_size_candidates; bounds the depth of the search */
#define MAX_INSTANCES 65536
#define MAX_TOKENS (1LL << 52) /* the sum of two is exact in a double */

typedef long long Tokens;

typedef struct { double a, b, c, d; } Curve;
typedef struct { double delay; int index; } Instance; /* index in the view */
typedef struct { Tokens length; int size; double wait, predicted; } Step;

typedef struct {
    Instance *queue;           /* its instances by delay, without those of the preset */
    int number;                /* in order of first appearance: the smaller one wins a tie */
    int held;                  /* this many of them are in the group */
    int cap;                   /* this many may join at all */
    int hosts;                 /* whether it hosts an instance of the preset */
} Node;

typedef struct { Node *node; const Instance *first; int count; } Join;

typedef struct {               /* a pool, a group in it, and what that group can grow to */
    Node *nodes;               /* by delay of the last instance that may join, then by number */
    int num_nodes, largest;    /* largest cap of a node */
    int size;                  /* of the group */
    double delay;              /* the largest of the group, seconds */
    unsigned long long known;  /* bit i: whether ahead[i] is known */
    double ahead[MAX_SIZES];   /* delay of the group once it has sizes[i] */
} Level;

typedef struct {
    double ttft;
    int num_steps, num_joins;
    Step steps[MAX_SIZES];
    Join *joins;
} Plan;

typedef struct {
    /* The problem, as search.Problem has it; `preset` is its `members`. */
    Tokens length, history, min_chunk, fewest;
    int chunkwise, priced, num_sizes, num_preset, num_instances, num_nodes;
    double keep, price;
    int sizes[MAX_SIZES];
    Curve curves[MAX_SIZES];

    /* In the block. By place in the view: */
    double *delays;
    int *node_of;              /* number of its node */
    char *is_preset;           /* zero at first */
    int *preset;
    Instance *queues, *order, *spare;
    Node *nodes;
    Join *joins;               /* of the group at hand, in joining order */

    /* The search. */
    int num_joins, only_last;
    double least;
    Step path[MAX_SIZES];
    Plan plans[2], *best;
    Level levels[MAX_SIZES];
} Search;

/* Point the arrays into `block`, once the counts and the largest size are known; with NULL, only
   say how many bytes that takes. */
size_t search_layout(Search *s, char *block);

/* Level 0: every node with its instances by delay, and the preset as the group. */
void fill_pool(Search *s);

/* Let instances join until the level's group has `size`; its delay then. `undo` takes them out. */
double grow(Search *s, const Level *at, int size);
void undo(Search *s, int num_joins);

/* The delay of the level's group once it has sizes[i]; asked for once. */
double delay_ahead(Search *s, Level *at, int i);

/* Make `in` the next level: the same group, in the pool of what it would be with sizes[i]. */
void narrow(Search *s, const Level *at, Level *in, int i);

/* Solve it: the answer is `best`, whose `ttft` is infinite if there is none. */
void search_run(Search *s);

#endif
