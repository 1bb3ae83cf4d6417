"""Refusals: what goes wrong for one HTTP request, and its answer in OpenAI's shape."""

import msgspec

from common.errors import RequestFailed

_TYPES = {
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    503: "ServiceUnavailableError",
}


class ErrorBody(msgspec.Struct, frozen=True):
    """The error object that clients of the OpenAI API read."""

    message: str
    type: str
    param: str | None
    code: int | str


class Refusal(RequestFailed):
    """One request is not served; becomes the HTTP answer, or an error event inside a stream."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> bytes:
        """The answer's JSON, `{"error": {...}}`."""
        error = ErrorBody(
            self.message, error_type(self.status), self.param, self.code or self.status
        )
        return msgspec.json.encode({"error": error})


def error_type(status: int) -> str:
    """The `type` that goes with an HTTP status."""
    fallback = "InternalServerError" if status >= 500 else "BadRequestError"
    return _TYPES.get(status, fallback)


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """The client must change its request, in `param` when that is known."""
    return Refusal(400, message, param, code)


def context_length(limit: int, prompt: int, completion: int, param: str) -> Refusal:
    """The prompt and its completion do not fit the model; clients match this very sentence."""
    message = (
        f"This model's maximum context length is {limit} tokens. However, you requested "
        f"{prompt + completion} tokens ({prompt} in the prompt, {completion} for the completion)."
    )
    return invalid(message, param, "context_length_exceeded")


def too_late() -> Refusal:
    """The time that a request may take is over."""
    return Refusal(504, "The request took too long.", code="timeout")
