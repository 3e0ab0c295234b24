"""Our DLPack tensors read by NumPy and torch, and theirs read by us. Writes no goldens."""

import ctypes
import sys

import numpy as np
import torch

import common

# The dtypes as mlx-core numbers them: NumPy's name, torch's name.
DTYPES = [
    ("bool", "bool"), ("uint8", "uint8"), ("uint16", "uint16"), ("uint32", "uint32"), ("uint64", "uint64"),
    ("int8", "int8"), ("int16", "int16"), ("int32", "int32"), ("int64", "int64"),
    ("float16", "float16"), (None, "bfloat16"), ("float32", "float32"), ("float64", "float64"),
    ("complex64", "complex64"),
]
BIG = 6
LAYOUTS = {
    0: lambda x: x.reshape(2, 3),
    1: lambda x: x.reshape(2, 3).T,
    2: lambda x: x[5],
    3: lambda x: x[:0].reshape(0, 3),
    4: lambda x: np.broadcast_to(x.reshape(6, 1), (6, 4)),
    5: lambda x: x[1:6:2],
}
READ_ONLY = 1


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)), ("flags", ctypes.c_uint64), ("tensor", Tensor),
    ]


class Legacy(ctypes.Structure):
    _fields_ = [
        ("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
    ]


NAMES = {Versioned: b"dltensor_versioned", Legacy: b"dltensor"}

api = ctypes.pythonapi
api.PyCapsule_New.restype = ctypes.py_object
api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
api.PyCapsule_GetName.restype = ctypes.c_char_p
api.PyCapsule_GetName.argtypes = [ctypes.py_object]
api.PyCapsule_GetPointer.restype = ctypes.c_void_p
api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
api.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]


class Ours:
    """The library under test."""

    def __init__(self, path):
        lib = ctypes.CDLL(path)
        pointer = ctypes.c_void_p
        for name, result, arguments in [
            ("export", pointer, [ctypes.c_int32, ctypes.c_int32]),
            ("export_legacy", pointer, [ctypes.c_int32, ctypes.c_int32]),
            ("active_memory", ctypes.c_size_t, []),
            ("import", pointer, [pointer]),
            ("import_legacy", pointer, [pointer]),
            ("read", ctypes.c_ssize_t, [pointer] * 5 + [ctypes.c_size_t]),
            ("drop", None, [pointer]),
        ]:
            function = getattr(lib, "mlx_test_" + name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self.imports = {Versioned: getattr(self, "import"), Legacy: self.import_legacy}
        self.exports = {Versioned: self.export, Legacy: self.export_legacy}

    def take(self, array):
        """An imported array as dtype number, shape and bytes; frees it."""
        dtype, ndim = ctypes.c_int32(), ctypes.c_size_t()
        room = 1 << 12
        dims, data = (ctypes.c_int32 * room)(), (ctypes.c_uint8 * room)()
        size = self.read(array, ctypes.byref(dtype), ctypes.byref(ndim), dims, data, room)
        assert size >= 0
        return dtype.value, tuple(dims[: ndim.value]), bytes(data[:size])


class Producer:
    """What NumPy and torch ask for a capsule. Counts the calls of our deleter."""

    deleted = 0

    def __init__(self, kind, pointer):
        self.pointer, self.kind = pointer, kind
        self.managed = kind.from_address(pointer)
        # The field is a view of the tensor, which is about to change.
        original = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.cast(self.managed.deleter, ctypes.c_void_p).value)

        def delete(pointer):
            Producer.deleted += 1
            original(pointer)

        # Kept for ever: a consumer may call it at any time.
        self.counting = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(delete)
        KEPT.append(self.counting)
        self.managed.deleter = self.counting
        tensor = self.managed.tensor
        self.address = tensor.data
        self.flags = getattr(self.managed, "flags", 0)
        self.capsule = api.PyCapsule_New(pointer, NAMES[kind], None)

    def __dlpack__(self, **_):
        return self.capsule

    def __dlpack_device__(self):
        return (1, 0)

    @property
    def consumed(self):
        return api.PyCapsule_GetName(self.capsule) != NAMES[self.kind]

    def free(self):
        assert not self.consumed
        self.counting(self.pointer)


KEPT = []
checks = 0


def expect(condition, *what):
    global checks
    checks += 1
    if not condition:
        print("dlpack:", *what, file=sys.stderr)
        sys.exit(1)


def as_numpy(consumed):
    if isinstance(consumed, torch.Tensor):
        consumed = consumed.float() if consumed.dtype == torch.bfloat16 else consumed
        return consumed.numpy()
    return consumed


def exported(ours):
    """Our tensors in NumPy and torch."""
    for dtype, (numpy_name, torch_name) in enumerate(DTYPES):
        for layout, lay in LAYOUTS.items():
            want = lay(np.arange(6).astype(numpy_name or "float32"))
            for kind in (Versioned, Legacy):
                for consumer in ("numpy", "torch"):
                    case = (consumer, kind.__name__, torch_name, layout)
                    pointer = ours.exports[kind](dtype, layout)
                    expect(pointer, *case, "no tensor")
                    producer = Producer(kind, pointer)
                    before = Producer.deleted
                    if consumer == "numpy" and numpy_name is None:
                        try:
                            np.from_dlpack(producer)
                        except (BufferError, RuntimeError):
                            pass
                        else:
                            expect(False, *case, "NumPy has bfloat16 now")
                        if not producer.consumed:
                            producer.free()
                        expect(Producer.deleted == before + 1, *case, "a refused tensor is not freed once")
                        continue
                    got = np.from_dlpack(producer) if consumer == "numpy" else torch.from_dlpack(producer)
                    expect(producer.consumed, *case, "the capsule is not consumed")
                    name = str(got.dtype).removeprefix("torch.")
                    expect(name == (numpy_name if consumer == "numpy" else torch_name), *case, name)
                    expect(tuple(got.shape) == want.shape, *case, got.shape)
                    expect(np.array_equal(as_numpy(got), want), *case, got, want)
                    if consumer == "numpy" and kind is Versioned and want.size:
                        expect(producer.flags & READ_ONLY and not got.flags.writeable, *case, "is writable")
                    if want.size:
                        address = got.ctypes.data if consumer == "numpy" else got.data_ptr()
                        expect(address == producer.address, *case, "was copied by the consumer")
                    if kind is Versioned and want.size and torch_name != "bool":
                        # Shared memory keeps the array's own strides, transposed or broadcast.
                        size = want.itemsize
                        steps = got.stride() if consumer == "torch" else tuple(s // size for s in got.strides)
                        theirs = tuple(s // size for s in want.strides)
                        long = [axis for axis in range(want.ndim) if want.shape[axis] > 1]
                        expect(all(steps[a] == theirs[a] for a in long), *case, steps, theirs)
                    expect(Producer.deleted == before, *case, "freed too early")
                    del got
                    expect(Producer.deleted == before + 1, *case, "not freed once")


def memory_is_given_back(ours):
    before = ours.active_memory()
    producer = Producer(Versioned, ours.export(11, BIG))
    got = np.from_dlpack(producer)
    expect(ours.active_memory() >= before + got.nbytes, "the array is not alive while NumPy has it")
    expect(not got.any() and got.shape == (1 << 20,), "the big array")
    del got, producer
    expect(ours.active_memory() == before, "memory is kept", ours.active_memory() - before)


def theirs(ours):
    """Tensors of NumPy and torch, taken by us."""
    cases = {
        "row-major": lambda x: x.reshape(2, 3),
        "transposed": lambda x: x.reshape(2, 3).T,
        "scalar": lambda x: x[5],
        "empty": lambda x: x[:0].reshape(0, 3),
        "steps": lambda x: x[1:6:2],
        "offset": lambda x: x[2:],
    }
    for dtype, (numpy_name, torch_name) in enumerate(DTYPES):
        for case, lay in cases.items():
            for kind in (Versioned, Legacy):
                for producer in ("numpy", "torch", "copy"):
                    if producer != "torch" and numpy_name is None:
                        continue
                    if producer == "copy" and kind is Legacy:
                        continue
                    what = (producer, kind.__name__, torch_name, case)
                    # The memory is NumPy's in any case, whose references can be counted.
                    base = np.arange(6).astype(numpy_name or "uint16")
                    if numpy_name is None:
                        base = np.array([0, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0], dtype=np.uint16)
                    source = np.asarray(lay(base)) if case != "scalar" else base[5:6].reshape(())
                    want = np.ascontiguousarray(source).reshape(source.shape)
                    references = sys.getrefcount(base)
                    shared = source
                    if producer == "torch":
                        shared = torch.from_numpy(source)
                        if numpy_name is None:
                            shared = shared.view(torch.bfloat16)
                    arguments = {"max_version": (1, 0)} if kind is Versioned else {}
                    if producer == "copy":
                        arguments["copy"] = True
                    capsule = shared.__dlpack__(**arguments)
                    name = NAMES[kind]
                    expect(api.PyCapsule_GetName(capsule) == name, *what, "the producer gave another format")
                    pointer = api.PyCapsule_GetPointer(capsule, name)
                    used = b"used_" + name
                    KEPT.append(used)
                    api.PyCapsule_SetName(capsule, used)
                    array = ours.imports[kind](pointer)
                    expect(array, *what, "was refused")
                    number, shape, data = ours.take(array)
                    expect(number == dtype, *what, "dtype", number)
                    expect(shape == source.shape, *what, shape)
                    expect(data == want.tobytes(), *what, "values")
                    ours.drop(array)
                    del capsule, shared
                    expect(sys.getrefcount(base) == references, *what, "the producer's memory is kept")


def refused(ours):
    for value, what in [
        (torch.empty(2, dtype=torch.complex128), "complex128"),
        (np.zeros(2, dtype=np.complex128), "complex128 of NumPy"),
    ]:
        capsule = value.__dlpack__(max_version=(1, 0))
        pointer = api.PyCapsule_GetPointer(capsule, NAMES[Versioned])
        api.PyCapsule_SetName(capsule, b"used_dltensor_versioned")
        expect(not getattr(ours, "import")(pointer), what, "was taken")


def generate(_out, args):
    ours = Ours(str(args.library))
    exported(ours)
    memory_is_given_back(ours)
    theirs(ours)
    refused(ours)
    print(f"dlpack: {checks} checks with NumPy {np.__version__} and torch {torch.__version__}")


if __name__ == "__main__":
    common.run(
        __doc__.splitlines()[0],
        generate,
        library={"required": True, "help": "the library built from tests/examples/dlpack.rs"},
    )
