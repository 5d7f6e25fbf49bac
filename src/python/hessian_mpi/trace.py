"""A network, with its loss or without, as an exported program that hessian_mpi reads.

torch.export takes most networks as they are. Where it does not, because forward() or the loss call torch.autograd.grad,
torch.func or vmap, what these do is written out in plain operators (make_fx), and that is exported. Where Python decides by
values, such as in a check that all variances are positive, it is run on the data themselves.
"""

from __future__ import annotations

import contextlib
import enum
import inspect
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._decomp import decomposition_table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.fx.traceback import preserve_node_meta
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


class Way(enum.Enum):
    """How a program is made; the values are for messages."""

    EXPORT = "by torch.export"
    PLAIN = "written out in plain operators (make_fx)"
    PLAIN_WITH_VALUES = "written out in plain operators (make_fx), with the decisions that Python takes on these data"


Compute = Callable[[Any, list[Tensor]], Any]
_OF_NETWORK = "network."

# The user's detach() while a network is traced: one that stays, and that no detach of autograd's is taken for.
_library = torch.library.Library("hessian_mpi", "DEF")
_library.define("detach(Tensor x) -> Tensor")
_library.impl("detach", lambda x: x.clone(), "CompositeExplicitAutograd")
_library.impl("detach", lambda x: torch.empty_like(x), "Meta")
_library.impl("detach", torch.library.fallthrough_kernel, "Autograd")


def _with_names(forward: Callable, names: list[str]) -> Callable:
    """With a signature of these arguments, by which torch.export names inputs."""
    arguments = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    setattr(forward, "__signature__", inspect.Signature(arguments))
    return forward


class _Program(nn.Module):
    """forward(NAME, ...) = compute(network, [tensors])."""

    def __init__(self, network: nn.Module, compute: Compute, names: list[str]):
        super().__init__()
        self.network = network

        def forward(*tensors: Tensor) -> Any:
            return compute(network, list(tensors))

        self.forward = _with_names(forward, names)


def export_program(network: nn.Module, compute: Compute, names: list[str], tensors: list[Tensor], dynamic: list[bool],
                   way: Way) -> ExportedProgram:
    """compute(network, tensors) as a program whose parameters have the network's names, whose inputs are called `names`,
    and may have any size in the first dimension of those that are `dynamic`, none of them with values.

    Raises whatever torch.export or make_fx raises for what they cannot take."""
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} if is_dynamic else None for is_dynamic in dynamic)
    program: nn.Module = _Program(network, compute, names)
    if way is Way.PLAIN:
        program = _Traced(network, _graph_of(program, tensors, dynamic), names)
    elif way is Way.PLAIN_WITH_VALUES:
        program = _Traced(network, _graph_with_values(program, tensors), names)
    with _quiet():
        exported = torch.export.export(program, tuple(tensors), dynamic_shapes=shapes if any(dynamic) else None)
    return _with_users_lines(_with_names_of_network(exported))


def keep_lines_of(function: Callable) -> None:
    """Has torch.export note lines of a function beside those of forward(), where this PyTorch can."""
    register = getattr(torch.fx.proxy, "_register_stack_trace_anchor", None)
    if register is not None:
        register(function)


def _with_users_lines(exported: ExportedProgram) -> ExportedProgram:
    """Messages of the program name the line, or the module, that an operator comes from: one of the user's, or none."""
    for node in exported.graph.nodes:
        frames = re.findall(r'File "[^\n]*(?:\n(?! *File ")[^\n]*)*', node.meta.pop("stack_trace", None) or "")
        own = [frame for frame in frames if not frame.startswith((f'File "{__file__}"', 'File "<'))]
        if own:
            node.meta["stack_trace"] = "\n  ".join(own)
        modules = node.meta.get("nn_module_stack", {}).items()
        node.meta["nn_module_stack"] = {key: (f"{path}.".removeprefix(_OF_NETWORK).removesuffix("."), kind)
                                        for key, (path, kind) in modules if not str(kind).startswith(__name__)}
    return exported


def _with_names_of_network(exported: ExportedProgram) -> ExportedProgram:
    for spec in [*exported.graph_signature.input_specs, *exported.graph_signature.output_specs]:
        spec.target = spec.target and spec.target.removeprefix(_OF_NETWORK)
    exported._state_dict = {name.removeprefix(_OF_NETWORK): value for name, value in exported.state_dict.items()}
    exported._constants = {name.removeprefix(_OF_NETWORK): value for name, value in exported.constants.items()}
    return exported


# --- traced programs --------------------------------------------------------------------------------------------------


class _Tree(nn.Module):
    """Parameters and buffers of a network, by its names, and nothing else of it."""

    def __init__(self, network: nn.Module):
        super().__init__()
        for name, parameter in network.named_parameters(remove_duplicate=False):
            folder, _, last = name.rpartition(".")
            self._folder(folder).register_parameter(last, parameter)
        for name, buffer in network.named_buffers(remove_duplicate=False):
            folder, _, last = name.rpartition(".")
            self._folder(folder).register_buffer(last, buffer)

    def _folder(self, path: str) -> nn.Module:
        place: nn.Module = self
        for word in path.split(".") if path else []:
            if word not in place._modules:
                place.add_module(word, nn.Module())
            place = place.get_submodule(word)
        return place


class _Traced(nn.Module):
    """A graph that takes parameters, buffers and inputs, as a module that has the first two."""

    def __init__(self, network: nn.Module, graph: GraphModule, names: list[str]):
        super().__init__()
        self.network = _Tree(network)
        self.graph = graph

        def forward(*tensors: Tensor) -> Any:
            flat = [*_state_of(self.network).values(), *tensors]
            with preserve_node_meta():  # the lines in it
                return Interpreter(self.graph).run(*flat)

        self.forward = _with_names(forward, names)


def _state_of(module: nn.Module) -> dict[str, Tensor]:
    """Of tied tensors the first alone."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _graph_of(program: nn.Module, tensors: list[Tensor], dynamic: list[bool]) -> GraphModule:
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    state: list[Tensor] = [mode.from_tensor(value, static_shapes=True) for value in _state_of(program).values()]
    inputs = [_fake_input(mode, tensor, is_dynamic) for tensor, is_dynamic in zip(tensors, dynamic)]
    with mode:
        return _graph(program, state, inputs)


def _graph_with_values(program: nn.Module, tensors: list[Tensor]) -> GraphModule:
    """Numbers taken out of tensors are constants in it, which is for a comparison at another point to find."""
    state = [value.detach().clone().requires_grad_(value.requires_grad) for value in _state_of(program).values()]
    with torch.random.fork_rng(devices=[]):
        return _graph(program, state, [tensor.clone() for tensor in tensors], _error_on_data_dependent_ops=False)


def _graph(program: nn.Module, state: list[Tensor], inputs: list[Tensor], **options: Any) -> GraphModule:
    names = list(_state_of(program))

    def computed(state: list[Tensor], inputs: list[Tensor]) -> Any:
        with _UsersDetach():
            return functional_call(program, dict(zip(names, state)), tuple(inputs))

    with sdpa_kernel(SDPBackend.MATH), _quiet(), _grad_that_may_cut():
        graph = make_fx(computed, decomposition_table=_plain_operators(), record_stack_traces=True, **options)(state, inputs)
    return _with_users_detach_alone(graph)


def _fake_input(mode: FakeTensorMode, tensor: Tensor, is_dynamic: bool) -> Tensor:
    """Sizes that are dynamic and equal are one size."""
    if not is_dynamic:
        return mode.from_tensor(tensor, static_shapes=True)
    sizes = [DimDynamic.DUCK] + [DimDynamic.STATIC] * (tensor.dim() - 1)
    return mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))


def _plain_operators() -> dict:
    """Operators for backward passes have at most one derivative more, and norms none by the statistics that they hand to
    these; the plain ones that they stand for have all."""
    taken_apart = re.compile(r"backward|native_\w*norm|_fused_rms_norm|_weight_norm")
    return {operator: plain for operator, plain in decomposition_table.items() if taken_apart.search(str(operator))}


class _UsersDetach(TorchFunctionMode):
    """Marks what the user cuts off: detach(), .data, and whatever is computed under no_grad(). What autograd saves for a
    backward pass goes through a detach as well (2.13), which comes by another way, and cuts nothing."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function in (Tensor.detach, torch.detach, Tensor.data.__get__):
            return torch.ops.hessian_mpi.detach(args[0])
        result = function(*args, **(kwargs or {}))
        if not torch.is_grad_enabled() and isinstance(result, Tensor) and result.is_floating_point():
            is_new = all(result is not argument for argument in args)
            return torch.ops.hessian_mpi.detach(result) if is_new else result
        return result


@contextlib.contextmanager
def _grad_that_may_cut() -> Iterator[None]:
    """torch.autograd.grad without create_graph has results that nothing is derived through."""
    original = torch.autograd.grad

    def grad(outputs: Any, inputs: Any, grad_outputs: Any = None, retain_graph: bool | None = None, create_graph: bool = False,
             **others: Any) -> tuple:
        found = original(outputs, inputs, grad_outputs, retain_graph, create_graph, **others)
        return found if create_graph else tuple(g if g is None else torch.ops.hessian_mpi.detach(g) for g in found)

    torch.autograd.grad = grad
    try:
        yield
    finally:
        torch.autograd.grad = original


def _with_users_detach_alone(graph: GraphModule) -> GraphModule:
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif node.target is torch.ops.hessian_mpi.detach.default:
            node.target = torch.ops.aten.detach.default
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What torch.export logs and prints is in its exception as well."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def is_training(exported: ExportedProgram) -> bool:
    """Whether an operator in it is in training mode, which the program asks --mode for."""
    for node in exported.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        given = dict(zip((argument.name for argument in schema.arguments), node.args)) if schema else {}
        given.update(node.kwargs)
        if given.get("dropout_p") or any(given.get(flag) is True for flag in ("training", "train", "use_input_stats")):
            return True
    return False


def save(exported: ExportedProgram, path: Any) -> None:
    with _quiet():
        torch.export.save(exported, path)
