"What the export of tickets computes once, in the process that those of the pages are forked from."
import copy

from torch.onnx._internal.exporter import _registration


def share_operators():
    """Build the table of ONNX operators once. The exporter builds it anew for every file, which takes half of an
    export's time."""
    build, made = _registration.ONNXRegistry.from_torchlib, {}

    def from_torchlib(opset_version=_registration._constants.TORCHLIB_OPSET):
        if opset_version not in made: made[opset_version] = build(opset_version)
        registry = copy.copy(made[opset_version])
        registry.functions = {name: [*found] for name, found in registry.functions.items()}
        return registry

    from_torchlib()
    _registration.ONNXRegistry.from_torchlib = staticmethod(from_torchlib)


try: share_operators()
except (AttributeError, ImportError): pass  # another torch: every file is exported as usual
