"""One pass over everything that can be reached from an object, into a digest that is the same in every process."""

import hashlib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from expunge._origins import label
from expunge.errors import ModelRefused

__all__ = ["PLAIN", "Walk"]

PLAIN = (int, float, complex, str, bytes, bool, type(None), type(...), type(NotImplemented))


class Walk:
    """One pass over everything that can be reached from an object.

    Args:
        kinds: how each type is taken; the first that fits.
        name: of the object, for errors.
        strict: see `code_digest`.
        own: objects that count by their structure alone (a network's own weights).
    """

    def __init__(
        self,
        kinds: Sequence[tuple[Any, Callable[["Walk", Any], None]]],
        name: str,
        *,
        strict: bool,
        own: Iterable[object],
    ) -> None:
        self._kinds, self._strict, self.path = kinds, strict, [name]
        self._total = hashlib.sha256()
        self._seen: dict[int, tuple[int, object]] = {}  # objects are kept, so that no later one takes an id
        self.own = {id(part) for part in own}

    def hexdigest(self) -> str:
        """Of all that was visited."""
        return self._total.hexdigest()

    def visit(self, value: object) -> None:
        """Add an object and all that it holds."""
        if type(value) in PLAIN:
            self.say(type(value).__name__, repr(value))
            return
        if type(value) in (tuple, frozenset):  # whether two equal ones are one object is the interpreter's choice
            self.content(value)
            return
        # A class says itself whether it was met before, as it is met with every object of it.
        if isinstance(value, type | types.CodeType) or not self.again(value):
            next(take for kinds, take in self._kinds if isinstance(value, kinds))(self, value)

    def inside(self, name: str, value: object) -> None:
        """Visit a part, which errors call by its name."""
        self.path.append(name)
        self.visit(value)
        self.path.pop()

    def refuse(self, value: object, why: str) -> None:
        """Raise, or count the type alone."""
        kind = label(value if isinstance(value, type | types.ModuleType) or callable(value) else type(value))
        if self._strict:
            raise ModelRefused(
                f"{' → '.join(self.path)} ({kind}) is {why}. Another run may find it otherwise, so that what the code does "
                "cannot be checked: make it inside the function from what it is given, or leave it out"
            )
        self.say("unseen", kind)

    def say(self, *parts: str) -> None:
        """Add text; where one part ends and the next begins counts."""
        for part in parts:
            content = part.encode("utf-8", "surrogatepass")
            self._total.update(f"{len(content)}:".encode() + content)

    def hash(self, content: Any) -> None:
        """Add bytes."""
        self._total.update(hashlib.sha256(content).digest())

    def again(self, value: object) -> bool:
        """Whether an object was met before; then its number is all there is to say."""
        if id(value) in self._seen:
            self.say("again", str(self._seen[id(value)][0]))
            return True
        self._seen[id(value)] = len(self._seen), value
        return False

    def aside(self, value: object) -> None:
        """Visit what adds nothing to the digest: what was not met before is looked at all the same, and nothing of it is refused."""
        total, seen, strict = self._total, dict(self._seen), self._strict
        self._total, self._strict = hashlib.sha256(), False
        try:
            self.visit(value)
        finally:
            self._total, self._seen, self._strict = total, seen, strict

    def content(self, value: object) -> None:
        """Of a built-in container, or of what derives from one."""
        if isinstance(value, dict):
            items = list(cast("dict[object, object]", value).items())
            self.say("dict", str(len(items)))
            for key, held in items:
                name = f"[{key!r:.40}]" if type(key) in PLAIN else "[...]"
                self.inside(name, key)
                self.inside(name, held)
        elif isinstance(value, set | frozenset):
            self.say("set", *sorted(self._apart(item) for item in cast("Iterable[object]", value)))
        else:
            items = list(cast("Iterable[object]", value))
            self.say(type(value).__name__, str(len(items)))
            for index, held in enumerate(items):
                self.inside(f"[{index}]", held)

    def _apart(self, value: object) -> str:
        """The digest of an element whose place among its fellows says nothing."""
        total, seen = self._total, self._seen
        self._total, self._seen = hashlib.sha256(), dict(seen)
        try:
            self.visit(value)
            return self._total.hexdigest()
        finally:
            self._total, self._seen = total, seen

    def attributes(self, held: Mapping[Any, object]) -> None:
        """Visit what is held under names, whatever their order."""
        self.say("attributes", str(len(held)))
        for name in sorted(held, key=str):
            self.say(str(name))
            self.inside(f".{name}", held[name])
