"""A secret on its way through the program, which nothing shows by accident."""

from typing import Generic, NoReturn, TypeVar

Value_co = TypeVar("Value_co", covariant=True)


class Masked(Generic[Value_co]):
    """Holds a value that no `repr`, `vars` or pickle shows.

    A crash reporter collects the local variables of every frame. Wrap a secret where it comes in,
    and reveal it only inside the expression that uses it, so that no local variable holds it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: Value_co) -> None:
        self._value = value

    def reveal(self) -> Value_co:
        """Return the value."""
        return self._value

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a masked value cannot be pickled or copied")
