"""The log of a process: one event per line on stderr, JSON or text.

Prompts, token ids, keys and the locals of a traceback never get into it: names that could carry
them are dropped, and so is every value that is not a plain scalar.
"""

import logging
import sys
from collections.abc import Iterable

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from common.config import LogConfig

FORBIDDEN = frozenset(
    {
        "api_key",
        "authorization",
        "body",
        "content",
        "header",
        "headers",
        "ids",
        "input",
        "key",
        "messages",
        "password",
        "prompt",
        "secret",
        "text",
        "token",
        "token_ids",
        "tokens",
    }
)
"""Names that never reach the log."""


def configure(config: LogConfig, **context: str) -> FilteringBoundLogger:
    """The process's logger; `context` (service, name) stands in each of its lines."""
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(sys.stderr),
        processors=list(_processors(config)),
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[config.level.upper()]
        ),
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return logger.bind(**context)


def scrub(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Drop forbidden names; of anything but a scalar only the type is left."""
    for name in FORBIDDEN & event.keys():
        del event[name]
    for name, value in event.items():
        if name != "exc_info" and not isinstance(value, str | int | float | bool | None):
            event[name] = f"<{type(value).__name__}>"
    return event


def _processors(config: LogConfig) -> Iterable[Processor]:
    yield scrub
    yield structlog.processors.add_log_level
    yield structlog.processors.TimeStamper(fmt="iso", utc=True)
    if config.format == "json":
        shown = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        yield structlog.processors.ExceptionRenderer(shown)
        yield structlog.processors.JSONRenderer()
    else:
        yield structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        )
