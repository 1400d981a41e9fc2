"""The values that cross between the tests and a program, and how they become messages.

A message is JSON. JSON has no tuples, sets, bytes and so on, so these travel as an object with one key that names the
type: `(1, 2)` is `{"tuple": [1, 2]}`. A message can name only the types in WHAT_CROSSES, and classes that the problem's
prompt defines. Reading one never runs code of the program (`pickle` and `marshal` give no such promise). This module is
longer than 300 lines because each kind of value needs a few lines to write it and a few to read it.
"""

import builtins
import importlib
import json
import re
import sys
import types
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from enum import Enum, Flag
from itertools import chain, permutations
from operator import is_
from typing import Any, NamedTuple

WHAT_CROSSES = """
Crosses in both directions, and arrives as an equal value of the same type:
    None, bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict, range
    deque, Counter, OrderedDict, defaultdict (with a built-in type as its factory), array.array
    Decimal, Fraction, date, time, datetime, timedelta, timezone
    dict views (keys, values, items)
    namedtuples, dataclasses, members of Enums and Flags, and instances of plain classes, that the prompt defines. Their
    plain attributes are copied; no method of theirs runs. Long chains and cycles of instances are fine.
    exceptions: built-in ones, those of modules that the tests have loaded, and those that the prompt defines
    numpy arrays, if the caller allows numpy by `modules=`
A set iterates in the order in which the program's own set does. If Python would order an equal set differently, it
arrives as a subclass of set that remembers the order.

Crosses as something close to it:
    an instance of a subclass of the above that the prompt does not define, as the value it holds (a namedtuple as a
    tuple, an IntEnum member as an int, a numpy scalar as a number); a defaultdict with another factory, as one without
    a Path, as a PurePosixPath
    generators and other iterators (map, zip, ...), as iterators that can be read once, up to 100,000 items
    a coroutine that a call returns, as one that gives the same result, if it needs no event loop
    another exception, as its nearest base class above, with its args and plain attributes; none has cause or traceback
    StopIteration that a call raises, as RuntimeError, because it could end the tests' own loops early

Does not cross. As an argument it makes the tests broken; as a result it fails the program:
    functions, types, modules, files, re.Match, and instances of classes that only the program defines
    values of more than 16 MiB, or nested more than 200 deep (arguments: 24 MiB and 250), such as a list in itself
SystemExit, KeyboardInterrupt and MemoryError end the program, also if the tests expect them.

A test cannot see:
    identity, except that a function may return one of its own arguments, and that an instance of one of the prompt's
    classes is one object within a value; changes that a function makes to an argument after it has returned
    what the program prints, or sets in `random`, in a module or on the function itself
A program cannot see what the tests patch, such as `input`. It has no files, no temporary folder, no threads and no
event loop with sockets, so `asyncio.run` fails in it.
"""

# Between judge and player. What the tests make of an answer may be passed back, so arguments may be a little larger.
MAX_BYTES, MAX_ARGUMENT_BYTES = 16 << 20, 24 << 20
MAX_DEPTH, MAX_ARGUMENT_DEPTH = 200, 250
MAX_ITEMS = 100_000
# An answer brings this many items of an iterator along. The tests fetch others when they need them.
FIRST_ITEMS = 1_000
# Larger integers travel in hexadecimal: decimal is slow to read, and limited to 4,300 digits.
DIRECT_INT = 1 << 63
# JSON would join two lone surrogates that meet into one character.
SURROGATE = re.compile("[\ud800-\udfff]")
NUMBERS = {type(None), bool, int, float}
UNCHANGEABLE = (type(None), int, float, complex, str, bytes, tuple, frozenset, range)
# How to get the plain value out of an instance of a subclass. The last step of each is a value of exactly that type. A
# subclass that interferes only decides, in its own process, which value that is.
PLAIN_BASES: dict[type, Callable] = {int: int.__int__, float: float.__float__, str: str.__str__} | {
    kind: kind for kind in (list, tuple, dict, set, frozenset, bytes, complex)
}
FACTORIES = {kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, set, dict)}
# Our own modules. Exceptions of the grader must not be raised in a program's name.
OWN_MODULES = ("__main__", "isolation", "judge", "nursery", "tally", "values", "verdict", "wire")


def _call(kind: type, *parts: Any) -> object:
    return kind(*parts)


class Kind(NamedTuple):
    """A type of Python's library: where it is, the parts of a value, the parts' types, and how to put them together."""

    module: str
    name: str
    parts: Callable[[Any], list]
    types_of_parts: tuple
    make: Callable[..., object] = _call


def _listed(value: Iterable) -> list:
    return [[*value]]


def _clock(time: Any) -> list:
    return [time.hour, time.minute, time.second, time.microsecond, time.tzinfo, time.fold]


def _with_fold(kind: Any, *parts: Any) -> object:
    return kind(*parts[:-1], fold=parts[-1])


def _timezone(kind: Any, offset: object, name: str) -> object:
    return kind(offset, name) if offset or name != "UTC" else kind.utc


def _factory(value: Any) -> str | None:
    return next((name for name, kind in FACTORIES.items() if kind is value.default_factory), None)


def _array(kind: type, dtype: str, shape: list, data: bytes) -> object:
    if not re.fullmatch(r"[<>|=][biufcUS]\d+", dtype):
        raise CrossingError(f"an array of {dtype}")
    return sys.modules["numpy"].frombuffer(data, dtype).reshape(shape).copy()


INTEGERS = (int,) * 7
OR_NONE = type(None)
LIBRARY = {
    "bytearray": Kind("builtins", "bytearray", lambda v: [bytes(v)], (bytes,)),
    "range": Kind("builtins", "range", lambda v: [v.start, v.stop, v.step], INTEGERS[:3]),
    "keys": Kind("_collections_abc", "dict_keys", _listed, (list,), lambda _, items: dict.fromkeys(items).keys()),
    "values": Kind(
        "_collections_abc", "dict_values", _listed, (list,), lambda _, items: dict(enumerate(items)).values()
    ),
    "items": Kind("_collections_abc", "dict_items", _listed, (list,), lambda _, items: dict(items).items()),
    "deque": Kind("collections", "deque", lambda v: [[*v], v.maxlen], (list, int | OR_NONE)),
    "Counter": Kind("collections", "Counter", lambda v: [dict(v)], (dict,)),
    "OrderedDict": Kind("collections", "OrderedDict", lambda v: [[*v.items()]], (list,)),
    "defaultdict": Kind(
        "collections",
        "defaultdict",
        lambda v: [_factory(v), dict(v)],
        (str | OR_NONE, dict),
        lambda kind, name, items: kind(name and FACTORIES[name], items),
    ),
    "array": Kind("array", "array", lambda v: [v.typecode, v.tolist()], (str, list)),
    "Decimal": Kind("decimal", "Decimal", lambda v: [str(v)], (str,)),
    "Fraction": Kind("fractions", "Fraction", lambda v: [v.numerator, v.denominator], INTEGERS[:2]),
    "datetime": Kind(
        "datetime",
        "datetime",
        lambda v: [v.year, v.month, v.day, *_clock(v)],
        (*INTEGERS, object, int),
        _with_fold,
    ),
    "date": Kind("datetime", "date", lambda v: [v.year, v.month, v.day], INTEGERS[:3]),
    "time": Kind("datetime", "time", _clock, (*INTEGERS[:4], object, int), _with_fold),
    "timedelta": Kind("datetime", "timedelta", lambda v: [v.days, v.seconds, v.microseconds], INTEGERS[:3]),
    "timezone": Kind("datetime", "timezone", lambda v: [v.utcoffset(None), v.tzname(None)], (object, str), _timezone),
    # Not a Path: that could touch files, and its type depends on the system.
    "path": Kind("pathlib", "PurePosixPath", lambda v: [str(v)], (str,)),
    "ndarray": Kind("numpy", "ndarray", lambda v: [v.dtype.str, [*v.shape], v.tobytes()], (str, list, bytes), _array),
}
TAGS = {kind.name: tag for tag, kind in LIBRARY.items()}
encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
# By default it gives one and the same NaN object each time, which would then be found in a list by its identity.
decode = json.JSONDecoder(parse_constant=float).raw_decode


class CrossingError(ValueError):
    """A value that cannot cross, or something that is not a message."""


def load_library() -> None:
    """Import the modules of all types that may arrive, so that no message can cause an import."""
    for module in dict.fromkeys(kind.module for kind in LIBRARY.values()):
        if module != "numpy":
            importlib.import_module(module)


class Codec:
    """Turns values into messages and back. Each side of a conversation has one, as both know classes and arguments.

    `classes` maps names to the classes that the prompt defines. `given` holds the arguments of the present call, which
    an answer may refer to. `fetch` returns more items of an iterator that has arrived. `imports` says whether a type
    that arrives may cause an import of its module.
    """

    def __init__(
        self,
        depth: int = MAX_DEPTH,
        size: int = MAX_BYTES,
        fetch: Callable[[object], tuple[list, object]] = lambda rest: ([], 0),
        imports: bool = False,
    ) -> None:
        self.use_classes({})
        self.given: list[object] = []
        self.iterators: list[Iterator] | None = None
        self.fetch, self.imports = fetch, imports
        self.depth, self._size = depth, size

    def use_classes(self, classes: dict[str, type]) -> None:
        """From now on, recognise instances of these classes."""
        self.classes = classes
        self.class_names = {kind: name for name, kind in classes.items()}

    def dumps(self, value: object, once: bool = False) -> bytes:
        """Encode a value. Raises CrossingError if it cannot cross or is too large.

        With `once`, what can be read only once is refused and stays unread.
        """
        packer = _Packer(self, once)
        tree = packer.pack(value, self.depth)
        # Instances refer to each other by number, so that long chains need no deep nesting and cycles are possible.
        objects = [packer.pack_object(instance) for instance in packer.instances]
        body = encode({"objects": [objects, tree]} if objects else tree).encode("ascii")
        if len(body) > self._size:
            raise CrossingError(f"a value of more than {self._size >> 20} MiB")
        return body

    def loads(self, body: bytes) -> Any:
        """Rebuild a value from bytes of unknown origin. Raises CrossingError for what `dumps` does not write."""
        try:
            text = body.decode("ascii")
            tree, end = decode(text)
            if end < len(text):
                raise CrossingError("a message with something after it")
            return _Unpacker(self).unpack_message(tree)
        except CrossingError:
            raise
        # Python's own types refuse wrong parts with many kinds of exception, and so do methods of the prompt's classes.
        except Exception as error:
            raise CrossingError("a message that cannot be read") from error

    def take(self, iterator: Iterator, number: int, defer: bool = False) -> tuple[list, int | None]:
        """Take items from an iterator: at most that many, and the number under which the rest can be fetched.

        If it raises, the items before that count, and the exception comes with the next call; with `defer` in any case.
        """
        items: list[object] = []
        rest: Iterator = iterator
        try:
            while len(items) < number:
                items.append(next(iterator))
        except StopIteration:
            return items, None
        except Exception as error:
            if not (items or defer):
                raise
            rest = _raising(error)
        if self.iterators is None:
            raise CrossingError(f"an iterator of more than {number:,} items")
        self.iterators.append(rest)
        return items, len(self.iterators) - 1


PLAIN = Codec(MAX_ARGUMENT_DEPTH, MAX_ARGUMENT_BYTES)
dumps, loads = PLAIN.dumps, PLAIN.loads


def attributes(instance: object) -> dict[str, object]:
    """Return what an instance holds, in its `__dict__` and in slots."""
    slots = {name: getattr(instance, name) for name in _slots(type(instance)) if hasattr(instance, name)}
    return {**getattr(instance, "__dict__", {}), **slots}


def set_attributes(instance: object, values: dict[str, object]) -> None:
    """Replace what an instance holds, without running any code of its class. Refuses to replace its methods."""
    kind, slots = type(instance), _slots(type(instance))
    for name in slots.keys() - values.keys():
        with suppress(AttributeError):
            slots[name].__delete__(instance)
    if hasattr(instance, "__dict__"):
        instance.__dict__.clear()
    for name, value in values.items():
        method = getattr(kind, name, None)
        if callable(method) and not isinstance(method, type):
            raise CrossingError(f"an instance with its own {name}()")
        if name in slots:
            slots[name].__set__(instance, value)
        else:
            instance.__dict__[name] = value


def _slots(kind: type) -> dict[str, types.MemberDescriptorType]:
    found = [item for base in kind.__mro__ for item in vars(base).items()]
    return {name: slot for name, slot in found if isinstance(slot, types.MemberDescriptorType)}


def _raising(error: Exception) -> Iterator:
    raise error
    yield


class _Packer:
    """Builds the JSON tree of one message. `instances` collects those of the prompt's classes on the way."""

    def __init__(self, codec: Codec, once: bool) -> None:
        self.instances: list[object] = []
        self._codec, self._once = codec, once
        self._names = codec.class_names
        self._numbers: dict[int, int] = {}
        # An answer refers to mutable arguments by their place, so that the tests see that it is the same object.
        self._given: dict[int, int] = {}
        if codec.given and not once:
            self._given = {
                id(value): place for place, value in enumerate(codec.given) if not isinstance(value, UNCHANGEABLE)
            }

    def pack(self, value: Any, depth: int) -> object:
        """Encode one value that may be nested that deep."""
        kind = type(value)
        if value is None or kind is bool or kind is float:
            return value
        if kind is int:
            return value if -DIRECT_INT <= value < DIRECT_INT else {"int": format(value, "x")}
        if kind is str:
            plain = value.isascii() or not SURROGATE.search(value)
            return value if plain else {"text": value.encode("utf-8", "surrogatepass").hex()}
        if kind is bytes:
            return {"bytes": value.hex()}
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if depth == 0:
            raise CrossingError(f"a value nested more than {self._codec.depth} deep")
        if self._given and id(value) in self._given:
            return {"given": self._given[id(value)]}
        if kind is list:
            return self._items(value, depth - 1)
        if kind is dict:
            return {"dict": [[self.pack(key, depth - 1), self.pack(item, depth - 1)] for key, item in value.items()]}
        if kind is tuple or kind is set or kind is frozenset:
            return {kind.__name__: self._items(value, depth - 1)}
        return self._other(kind, value, depth - 1)

    def pack_object(self, instance: object) -> list:
        """Encode an instance of one of the prompt's classes: its class, the value that it holds, its attributes."""
        kind, held = type(instance), None
        for base in (list, dict, set):
            if isinstance(instance, base):
                held = base(instance)
        state = [[name, value] for name, value in attributes(instance).items()]
        return [self._names[kind], self.pack(held, self._codec.depth), self.pack(state, self._codec.depth)]

    def _items(self, values: Collection, depth: int) -> list:
        # Most long lists hold numbers only, which is four times faster to encode if each needs no call of its own.
        if NUMBERS.issuperset(map(type, values)):
            return [v if type(v) is not int or -DIRECT_INT <= v < DIRECT_INT else self.pack(v, depth) for v in values]
        return [self.pack(item, depth) for item in values]

    def _other(self, kind: type, value: Any, depth: int) -> object:
        if kind in self._names:
            return self._of_prompt(kind, value, depth)
        if kind.__module__ == "numpy" and kind.__name__ != "ndarray" and getattr(value, "shape", None) == ():
            return self.pack(value.item(), depth)
        if kind is OrderedSet or kind is OrderedFrozenset:
            return {"set" if kind is OrderedSet else "frozenset": self._items(value, depth)}
        for base in kind.__mro__:
            if base in PLAIN_BASES:
                return self.pack(PLAIN_BASES[base](value), depth + 1)
            if base is BaseException:
                return {"exception": self._exception(value, depth)}
            tag = TAGS.get(base.__name__)
            # A program's own class may have the same name.
            if tag and base is getattr(sys.modules.get(LIBRARY[tag].module), base.__name__, None):
                return {tag: self._items(LIBRARY[tag].parts(value), depth)}
        if hasattr(kind, "__next__") and not hasattr(kind, "fileno") and not self._once:
            number = MAX_ITEMS if self._codec.iterators is None else FIRST_ITEMS
            items, rest = self._codec.take(iter(value), number, defer=True)
            return {"iterator": [isinstance(value, types.GeneratorType), self._items(items, depth), rest]}
        if kind is types.CoroutineType and not self._once:
            return {"coroutine": [self._items([step], depth)[0] for step in _run_coroutine(value)]}
        raise CrossingError(f"a value of type {kind.__name__}, which is not plain data")

    def _of_prompt(self, kind: type, value: Any, depth: int) -> object:
        name = self._names[kind]
        if issubclass(kind, Flag):
            return {"flag": [name, self.pack(value._value_, depth)]}
        if issubclass(kind, Enum):
            return {"member": [name, self.pack(value._name_, depth)]}
        if issubclass(kind, BaseException):
            return {"exception": self._exception(value, depth)}
        for base in (int, float, str, bytes, tuple, frozenset):
            if issubclass(kind, base):
                return {"held": [name, self.pack(PLAIN_BASES[base](value), depth)]}
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.instances)
            self.instances.append(value)
        return {"object": self._numbers[id(value)]}

    def _exception(self, error: BaseException, depth: int) -> list:
        """Encode an exception: the classes that it may arrive as, nearest first, its args and its plain attributes."""
        # A class of the program's may have an `args` of its own.
        names, args = [], vars(BaseException)["args"].__get__(error)
        for kind in type(error).__mro__[:-1]:
            if kind in self._names:
                names.append(["", self._names[kind]])
            elif kind.__module__ != "solution":
                names.append([str(kind.__module__), str(kind.__qualname__)])
            elif not names and "__str__" in vars(kind):
                # This class does not cross, so send the text that it makes.
                args = (_text(error),)
        if isinstance(error, OSError) and error.filename is not None and len(args) == 2:
            args = (*args, error.filename)
        try:
            packed = self._items(args, depth)
        except CrossingError:
            packed = self._items([_text(error)], depth)
        state = []
        for name, value in getattr(error, "__dict__", {}).items():
            with suppress(CrossingError):
                state.append([str(name), self.pack(value, depth)])
        return [names, packed, state]


class _Unpacker:
    """Rebuilds the value of one message."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._objects: list[object] = []

    def unpack_message(self, tree: object) -> Any:
        """Rebuild the value, and before it the instances that it refers to."""
        if isinstance(tree, dict) and "objects" in tree:
            states, tree = tree["objects"]
            classes = [self._class(name) for name, _, _ in states]
            # First make all instances, empty, so that they can refer to each other; then fill them. Those that came
            # last are the innermost, so that an instance is complete before it is put into a set.
            self._objects = [_new(kind) for kind in classes]
            for instance, (_, held, state) in reversed([*zip(self._objects, states, strict=True)]):
                self._fill(instance, self.unpack(held, MAX_ARGUMENT_DEPTH), self.unpack(state, MAX_ARGUMENT_DEPTH))
        return self.unpack(tree, MAX_ARGUMENT_DEPTH)

    def unpack(self, tree: object, depth: int) -> Any:
        """Rebuild one value that may be nested that deep."""
        # The decoder makes no subclasses, and a union in `isinstance` would take as long as the rest for a number.
        if type(tree) is not list and type(tree) is not dict:
            return tree
        if depth == 0:
            raise CrossingError("a value nested too deep")
        depth -= 1
        if isinstance(tree, list):
            return self._items(tree, depth)
        [(name, body)] = tree.items()
        if name == "dict" and type(body) is list:
            return {self.unpack(key, depth): self.unpack(item, depth) for key, item in body}
        if name == "tuple" and type(body) is list:
            return tuple(self._items(body, depth))
        if name in LIBRARY:
            return self._of_library(LIBRARY[name], self._items(body, depth))
        match name, body:
            case "int", str():
                return int(body, 16)
            case "text", str():
                return bytes.fromhex(body).decode("utf-8", "surrogatepass")
            case "bytes", str():
                return bytes.fromhex(body)
            case "complex", [float(real), float(imaginary)]:
                return complex(real, imaginary)
            case (("set" | "frozenset"), list()):
                return in_order(set if name == "set" else frozenset, self._items(body, depth))
            case "given", int(place) if type(place) is int and 0 <= place < len(self._codec.given):
                return self._codec.given[place]
            case "object", int(number) if type(number) is int and number >= 0:
                return self._objects[number]
            case "iterator", [bool(generator), list(items), rest]:
                found = self._iterate(self.unpack(items, depth), rest)
                return found if generator else chain(found)
            case "coroutine", list():
                return _coroutine(self.unpack(body, depth))
            case "member", [str(kind), str(member)] if issubclass(self._class(kind), Enum):
                return self._class(kind)._member_map_[member]
            case "flag", [str(kind), int(bits)] if issubclass(self._class(kind), Flag):
                return self._class(kind)(bits)
            case "held", [str(kind), held]:
                return self._held(self._class(kind), self.unpack(held, depth))
            case "exception", [list(names), list(args), list(state)]:
                return self._exception(names, self.unpack(args, depth), self.unpack(state, depth))
        raise CrossingError("an object that names no type")

    def _items(self, trees: list, depth: int) -> list:
        if {list, dict}.isdisjoint(map(type, trees)):
            return trees
        return [self.unpack(item, depth) for item in trees]

    def _class(self, name: str) -> Any:
        if name not in self._codec.classes:
            raise CrossingError(f"a value of a class {name}, which the prompt does not define")
        return self._codec.classes[name]

    def _of_library(self, kind: Kind, parts: list) -> object:
        if self._codec.imports:
            importlib.import_module(kind.module)
        if kind.module not in sys.modules or len(parts) != len(kind.types_of_parts):
            raise CrossingError(f"a {kind.name} that cannot be made here")
        if not all(map(isinstance, parts, kind.types_of_parts)):
            raise CrossingError(f"a {kind.name} of wrong parts")
        return kind.make(getattr(sys.modules[kind.module], kind.name), *parts)

    def _fill(self, instance: object, held: object, state: list) -> None:
        match instance, held:
            case list(), list():
                list.extend(instance, held)
            case dict(), dict():
                dict.update(instance, held)
            case set(), set():
                set.update(instance, held)
        set_attributes(instance, {str(name): value for name, value in state})

    def _held(self, kind: type, value: Any) -> object:
        """Make an instance of a class of the prompt that is an immutable value, such as a namedtuple."""
        base: Any = type(value)
        if not issubclass(kind, base) or issubclass(kind, Enum):
            raise CrossingError(f"a {kind.__name__} of a wrong value")
        if isinstance(value, tuple) and len(getattr(kind, "_fields", value)) != len(value):
            raise CrossingError(f"a {kind.__name__} of a wrong length")
        return base.__new__(kind, value)

    def _iterate(self, items: list, rest: object) -> Iterator:
        count = len(items)
        yield from items
        while rest is not None:
            items, rest = self._codec.fetch(rest) if count < MAX_ITEMS else ([], 0)
            if not items and rest is not None:
                raise RuntimeError(f"an iterator of more than {MAX_ITEMS:,} items")
            count += len(items)
            yield from items

    def _exception(self, names: list, args: list, state: list) -> BaseException:
        kind = next(filter(None, (self._exception_class(module, name) for module, name in names)), RuntimeError)
        base: Any = next(base for base in kind.__mro__ if base.__module__ == "builtins")
        # Build it as its built-in base does, so that no code of a class of the prompt or of a library runs.
        error = base.__new__(kind, *args)
        base.__init__(error, *args)
        error.__dict__.update({str(name): value for name, value in state})
        return error

    def _exception_class(self, module: str, name: str) -> type | None:
        """The class of that name, if it is one of the prompt or is already loaded. Nothing is imported."""
        if module == "":
            kind = self._codec.classes.get(name)
        else:
            loaded = None if module.partition(".")[0] in OWN_MODULES else sys.modules.get(module)
            kind = vars(loaded or builtins).get(name) if loaded else None
        return kind if isinstance(kind, type) and issubclass(kind, Exception) else None


def _text(error: BaseException) -> str:
    try:
        return str.__str__(str(error))
    # A program's own __str__ may raise anything.
    except BaseException:
        return ""


def _new(kind: Any) -> object:
    """Make an empty instance of a class of the prompt, by the `__new__` of the built-in type below it."""
    base = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    if base not in (object, list, dict, set) or issubclass(kind, Enum):
        raise CrossingError(f"an instance of {kind.__name__}")
    return base.__new__(kind)


def _run_coroutine(coroutine: types.CoroutineType) -> list:
    """Run a coroutine without an event loop: [its value], or [None, the exception that it raises]."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as result:
        return [result.value]
    except Exception as error:
        return [None, error]


async def _coroutine(result: list) -> object:
    if len(result) > 1:
        raise result[1]
    return result[0]


def in_order(kind: type[set] | type[frozenset], items: list) -> Collection:
    """Make a set that iterates in the order of `items`.

    Equal sets may differ in their order, which depends on the size of their table and on which items came first. Try
    both common sizes, and for small sets every order of insertion. If none gives the order, remember it.
    """
    for order in permutations(items) if len(items) <= 5 else [items]:
        for found in (kind(order), kind(dict.fromkeys(order))):
            if all(map(is_, found, items)) or len(found) < len(items):
                return found
    made = (OrderedSet if kind is set else OrderedFrozenset)(items)
    made.order, made.first = items, frozenset(items)
    return made


class _Ordered:
    """What the next two share: they iterate in a remembered order, until they change. Copies have no order."""

    order: Collection = ()
    first: frozenset = frozenset()

    def __iter__(self) -> Iterator:
        # mypy does not see the set that comes after this class.
        return iter(self.order) if self.order and self == self.first else super().__iter__()  # type: ignore[misc]

    def __repr__(self) -> str:
        items = f"{{{', '.join(map(repr, self))}}}"
        return items if isinstance(self, set) else f"frozenset({items})"


class OrderedSet(_Ordered, set):
    """A set that iterates in the order of the items that it was made from, until it changes."""


class OrderedFrozenset(_Ordered, frozenset):
    """A frozenset that iterates in the order of the items that it was made from."""
