"""Under which address others reach a link of this process."""

from urllib.parse import urlsplit

from common.messages import Endpoint


def reachable(link: Endpoint, inbox: Endpoint) -> Endpoint:
    """A link's bound endpoint, under the host name by which peers reach the inbox."""
    here, host = urlsplit(link), urlsplit(inbox).hostname
    if here.scheme != "tcp" or host is None:
        return link
    return f"tcp://{host}:{here.port}"
