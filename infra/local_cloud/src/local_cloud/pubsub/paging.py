"""Pages of a list of names."""

from __future__ import annotations

from collections.abc import Iterable

#: What Google's list methods return when the request leaves page_size out.
DEFAULT_PAGE_SIZE = 100


def page(names: Iterable[str], *, size: int, token: str) -> tuple[list[str], str]:
    """The names after `token`, `size` of them (0: the default), and the token of the next page or "".

    A token is the last name of the page before, so that a name deleted between two pages skips none.
    """
    left = sorted(name for name in names if name > token)
    shown = left[: size or DEFAULT_PAGE_SIZE]
    return shown, shown[-1] if len(left) > len(shown) else ""
