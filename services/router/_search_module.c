/* The Python side of _search.c: search(problem: search.Problem) -> search.Found.

   All input is checked here: a wrong type is a TypeError, a number out of range a ValueError.
   What is read lies in tuples, which cannot change meanwhile, and whatever might run Python code
   is done before the search starts. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_search.h"

#include <math.h>

/* The fields of search.Problem, in its order. */
enum {
    LENGTH, HISTORY, MEMBERS, VIEW, SIZES, CURVES, KEEP, MIN_CHUNK, CHUNKWISE, PRICE, FEWEST,
    NUM_FIELDS
};

#define FIELD(i) PyTuple_GET_ITEM(problem, i)

typedef struct {
    PyTypeObject *problem, *step, *found;
    PyObject *nodes, *delays;  /* names of a view's attributes */
} State;

/* ---- Reading: 1, or 0 with an exception set ---- */

static int wrong(PyObject *type, const char *name, const char *what)
{
    PyErr_Format(type, "%s: %s", name, what);
    return 0;
}

static int read_int(PyObject *value, const char *name, Tokens least, Tokens most, Tokens *out)
{
    int overflow;
    if (!PyLong_Check(value))
        return wrong(PyExc_TypeError, name, "an int is needed");
    *out = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow || *out < least || *out > most)
        return wrong(PyExc_ValueError, name, "out of range");
    return 1;
}

static int read_float(PyObject *value, const char *name, double *out)
{
    if (PyFloat_CheckExact(value)) {
        *out = PyFloat_AS_DOUBLE(value);
        return isfinite(*out) || wrong(PyExc_ValueError, name, "must be finite");
    }
    if (!PyFloat_Check(value) && !PyLong_Check(value))
        return wrong(PyExc_TypeError, name, "a float is needed");
    *out = PyFloat_AsDouble(value);
    if (PyErr_Occurred() || !isfinite(*out))
        return wrong(PyExc_ValueError, name, "must be finite");
    return 1;
}

static int read_tuple(PyObject *value, const char *name, Py_ssize_t most, int *count)
{
    if (!PyTuple_Check(value))
        return wrong(PyExc_TypeError, name, "a tuple is needed");
    if (PyTuple_GET_SIZE(value) > most)
        return wrong(PyExc_ValueError, name, "too long");
    *count = (int)PyTuple_GET_SIZE(value);
    return 1;
}

static int read_curve(PyObject *value, Curve *curve)
{
    double *to[] = {&curve->a, &curve->b, &curve->c, &curve->d};
    int count;
    if (!read_tuple(value, "curves", 4, &count))
        return 0;
    for (int i = 0; i < count; i++)
        if (!read_float(PyTuple_GET_ITEM(value, i), "curves", to[i]))
            return 0;
        else if (*to[i] < 0)
            return wrong(PyExc_ValueError, "curves", "must be >= 0");
    return count == 4 || wrong(PyExc_ValueError, "curves", "four coefficients each");
}

/* After `num_instances` and `num_preset` are known: sizes ascend between these two. */
static int read_sizes(PyObject *sizes, PyObject *curves, Search *s)
{
    Tokens size, least = s->num_preset > 1 ? s->num_preset : 1;
    int num_curves;
    if (!read_tuple(sizes, "sizes", MAX_SIZES, &s->num_sizes) ||
        !read_tuple(curves, "curves", MAX_SIZES, &num_curves))
        return 0;
    if (s->num_sizes == 0 || s->num_sizes != num_curves)
        return wrong(PyExc_ValueError, "sizes", "one or more, each with a curve");
    for (int i = 0; i < s->num_sizes; i++, least = size + 1) {
        if (!read_int(PyTuple_GET_ITEM(sizes, i), "sizes", least, s->num_instances, &size) ||
            !read_curve(PyTuple_GET_ITEM(curves, i), &s->curves[i]))
            return 0;
        s->sizes[i] = (int)size;
    }
    return 1;
}

static int read_numbers(PyObject *problem, Search *s)
{
    s->priced = FIELD(PRICE) != Py_None;
    s->price = 0.0;
    s->chunkwise = PyObject_IsTrue(FIELD(CHUNKWISE));
    return s->chunkwise >= 0 && read_int(FIELD(LENGTH), "length", 1, MAX_TOKENS, &s->length) &&
           read_int(FIELD(HISTORY), "history", 0, MAX_TOKENS, &s->history) &&
           read_int(FIELD(MIN_CHUNK), "min_chunk", -MAX_TOKENS, MAX_TOKENS, &s->min_chunk) &&
           read_int(FIELD(FEWEST), "fewest", -MAX_TOKENS, MAX_TOKENS, &s->fewest) &&
           read_float(FIELD(KEEP), "keep", &s->keep) &&
           (!s->priced || read_float(FIELD(PRICE), "price", &s->price));
}

static int read_delays(PyObject *delays, Search *s)
{
    for (int i = 0; i < s->num_instances; i++)
        if (!read_float(PyTuple_GET_ITEM(delays, i), "delays", &s->delays[i]))
            return 0;
    return 1;
}

static int read_preset(PyObject *members, Search *s)
{
    Tokens index;
    memset(s->is_preset, 0, s->num_instances);
    for (int i = 0; i < s->num_preset; i++) {
        PyObject *member = PyTuple_GET_ITEM(members, i);
        if (!read_int(member, "members", 0, s->num_instances - 1, &index))
            return 0;
        if (s->is_preset[index])
            return wrong(PyExc_ValueError, "members", "must differ");
        s->is_preset[index] = 1;
        s->preset[i] = (int)index;
    }
    return 1;
}

/* Number the nodes in order of first appearance. Neighbours in a view tend to share a node, and
   equal names to be one object: most are told by their address. */
static int read_nodes(PyObject *nodes, Search *s)
{
    PyObject *last = NULL, *numbers = PyDict_New();
    int number = 0;
    s->num_nodes = 0;
    for (int i = 0; numbers && i < s->num_instances; i++) {
        PyObject *name = PyTuple_GET_ITEM(nodes, i);
        if (name != last) {
            if (!PyUnicode_CheckExact(name)) {
                wrong(PyExc_TypeError, "nodes", "a str is needed");
                break;
            }
            PyObject *found = PyDict_GetItemWithError(numbers, name);
            number = found ? (int)PyLong_AsLong(found) : s->num_nodes;
            if (!found) {
                PyObject *next = PyErr_Occurred() ? NULL : PyLong_FromLong(s->num_nodes++);
                if (!next || PyDict_SetItem(numbers, name, next) < 0) {
                    Py_XDECREF(next);
                    break;
                }
                Py_DECREF(next);
            }
            last = name;
        }
        s->node_of[i] = number;
    }
    Py_XDECREF(numbers);
    return !PyErr_Occurred();
}

/* ---- Answering: a new reference, or NULL with an exception set ---- */

/* A NamedTuple of `items`, which are taken over; the same way as its own `__new__` goes. */
static PyObject *named(PyTypeObject *type, int count, PyObject **items)
{
    PyObject *plain = PyTuple_New(count), *arguments = NULL, *made = NULL;
    int whole = plain != NULL;
    for (int i = 0; i < count; i++) {
        whole = whole && items[i];
        if (plain)
            PyTuple_SET_ITEM(plain, i, items[i]);
        else
            Py_XDECREF(items[i]);
    }
    if (whole && (arguments = PyTuple_Pack(1, plain)))
        made = PyTuple_Type.tp_new(type, arguments, NULL);
    Py_XDECREF(arguments);
    Py_XDECREF(plain);
    return made;
}

static PyObject *step_of(State *state, const Step *step)
{
    PyObject *items[] = {PyLong_FromLongLong(step->length), PyLong_FromLong(step->size),
                         PyFloat_FromDouble(step->wait), PyFloat_FromDouble(step->predicted)};
    return named(state->step, 4, items);
}

static PyObject *steps_of(State *state, const Plan *plan)
{
    PyObject *steps = PyTuple_New(plan->num_steps);
    for (int i = 0; steps && i < plan->num_steps; i++) {
        PyObject *step = step_of(state, &plan->steps[i]);
        if (step)
            PyTuple_SET_ITEM(steps, i, step);
        else
            Py_CLEAR(steps);
    }
    return steps;
}

static PyObject *members_of(const Search *s)
{
    const Plan *plan = s->best;
    Py_ssize_t count = plan->steps[plan->num_steps - 1].size, used = 0;
    PyObject *members = PyTuple_New(count);
    if (!members)
        return NULL;
    for (int i = 0; i < s->num_preset; i++)
        PyTuple_SET_ITEM(members, used++, PyLong_FromLong(s->preset[i]));
    for (int i = 0; i < plan->num_joins; i++)
        for (int j = 0; j < plan->joins[i].count; j++)
            PyTuple_SET_ITEM(members, used++, PyLong_FromLong(plan->joins[i].first[j].index));
    if (PyErr_Occurred())
        Py_CLEAR(members);
    return members;
}

static PyObject *solve_with(State *state, PyObject *problem, PyObject *nodes, PyObject *delays,
                            Search *s)
{
    PyObject *found = NULL;
    char *block = PyMem_Malloc(search_layout(s, NULL));
    if (!block)
        return PyErr_NoMemory();
    search_layout(s, block);
    if (read_delays(delays, s) && read_nodes(nodes, s) &&
        read_preset(FIELD(MEMBERS), s)) {
        search_run(s);
        if (s->best->ttft < INFINITY) {
            PyObject *items[] = {
                PyFloat_FromDouble(s->best->ttft), steps_of(state, s->best), members_of(s)};
            found = named(state->found, 3, items);
        } else {
            PyErr_SetString(PyExc_ValueError, "no plan ends in a finite time");
        }
    }
    PyMem_Free(block);
    return found;
}

static PyObject *search(PyObject *module, PyObject *problem)
{
    State *state = PyModule_GetState(module);
    PyObject *found = NULL;
    Search s;
    int num_nodes;
    if (!PyObject_TypeCheck(problem, state->problem) || PyTuple_GET_SIZE(problem) != NUM_FIELDS) {
        wrong(PyExc_TypeError, "problem", "a search.Problem is needed");
        return NULL;
    }
    PyObject *view = FIELD(VIEW);
    PyObject *nodes = PyObject_GetAttr(view, state->nodes);
    PyObject *delays = nodes ? PyObject_GetAttr(view, state->delays) : NULL;
    if (delays && read_tuple(nodes, "nodes", MAX_INSTANCES, &num_nodes) &&
        read_tuple(delays, "delays", MAX_INSTANCES, &s.num_instances) &&
        read_tuple(FIELD(MEMBERS), "members", s.num_instances, &s.num_preset) &&
        read_sizes(FIELD(SIZES), FIELD(CURVES), &s) && read_numbers(problem, &s)) {
        if (num_nodes == s.num_instances)
            found = solve_with(state, problem, nodes, delays, &s);
        else
            wrong(PyExc_ValueError, "nodes", "must be as many as delays");
    }
    Py_XDECREF(delays);
    Py_XDECREF(nodes);
    return found;
}

/* ---- The module ---- */

static PyTypeObject *tuple_type(PyObject *from, const char *name)
{
    PyObject *type = PyObject_GetAttrString(from, name);
    if (type && PyType_Check(type) && PyType_IsSubtype((PyTypeObject *)type, &PyTuple_Type))
        return (PyTypeObject *)type;
    if (type)
        PyErr_Format(PyExc_ImportError, "services.router.search.%s is no tuple", name);
    Py_XDECREF(type);
    return NULL;
}

static int execute(PyObject *module)
{
    State *state = PyModule_GetState(module);
    PyObject *python = PyImport_ImportModule("services.router.search");
    if (!python)
        return -1;
    int done = (state->problem = tuple_type(python, "Problem")) &&
               (state->step = tuple_type(python, "Step")) &&
               (state->found = tuple_type(python, "Found")) &&
               (state->nodes = PyUnicode_InternFromString("nodes")) &&
               (state->delays = PyUnicode_InternFromString("delays"));
    Py_DECREF(python);
    return done ? 0 : -1;
}

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->problem);
    Py_VISIT(state->step);
    Py_VISIT(state->found);
    return 0;
}

static int clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->problem);
    Py_CLEAR(state->step);
    Py_CLEAR(state->found);
    Py_CLEAR(state->nodes);
    Py_CLEAR(state->delays);
    return 0;
}

static PyMethodDef methods[] = {
    {"search", search, METH_O, "The same as services.router.search.search, compiled."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_search", "Algorithms 1-3, compiled.", sizeof(State), methods, slots,
    traverse, clear, NULL,
};

PyMODINIT_FUNC PyInit__search(void)
{
    return PyModuleDef_Init(&definition);
}
