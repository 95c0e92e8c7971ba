"""Read the forward method of a torch module in evaluation mode: a graph of what it calls, in order.

What the graph would not say is refused by name: hooks, methods replaced on one module, weights that change.

In: a torch module. Out: a torch.fx graph, or an UnsupportedError that says where and what to do.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules import module as torch_module
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.activation.rectifier import Rectifier
from nctool.conversion.trace.hints import SHARDED, WRAPPED, unsupported
from nctool.conversion.trace.in_place import IN_PLACE_OPERATORS, changed_by
from nctool.conversion.trace.obstacles import Obstacles
from nctool.conversion.trace.recording import all_recorded
from nctool.conversion.trace.restoring import evaluation
from nctool.errors import NctoolError, UnsupportedError, UsageError

WITHOUT_GRADIENTS = "without gradients"
"""Key in the `meta` of a node: its call stood in a `torch.no_grad()`."""

HOOK_HINT = (
    "make it permanent with torch.nn.utils.prune.remove, remove_weight_norm or remove_spectral_norm, or remove the hook"
)
"""The way out of hooks."""

_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]))
_IN_ORDER = "write the network as modules in a fixed order, for example nn.Sequential"
_BY_STATEMENT = {
    "assert": "leave out the assert: it asks for the numbers in a tensor",
    "print": "leave out the print: it asks for the numbers in a tensor",
}
_NOT_HELD = "not installed as a submodule"
_BY_REASON = {
    _NOT_HELD: "make the layers in __init__ and keep those of a list in nn.ModuleList; in place of a slice, call its "
    "layers: for layer in self.net[:-1]: x = layer(x)",
    "argument 'kernel_size'": "use nn.AdaptiveAvgPool2d(1), or windows of a fixed size",
}


def read_graph(model: nn.Module, obstacles: Obstacles) -> fx.Graph:
    """Return what the forward method of `model` calls in evaluation mode, in order; an activation of ours is one call.

    Arguments with a default keep it. A function that changes nothing, and whose result nothing reads, is left out: an
    assert, a shape.

    Args:
        model: whose forward method is read.
        obstacles: takes in hooks, methods replaced on an object, and parameters without a size; a forward method that
            has several inputs, depends on data, changes weights, makes tensors or draws random numbers.

    Returns:
        The graph, without nodes for a forward method that cannot be followed.

    Raises:
        UsageError: the network is in a wrapper.
    """
    require_unwrapped(model)
    graph = fx.Graph()
    with obstacles.noted():
        _require_sizes(model)
        with obstacles.noted():
            _require_no_global_hooks()
        with obstacles.noted():
            _require_as_its_class(model, "model")
        with evaluation(model):
            read = trace_calls(model)
        _require_one_input(read)
        _require_no_new_tensors(model, read)
        graph = read
    for name in dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "call_module"):
        with obstacles.noted():
            _require_as_its_class(model.get_submodule(name), f"module `{name}`")
    return graph


def _require_one_input(graph: fx.Graph) -> None:
    _, *more = (node for node in graph.nodes if node.op == "placeholder")
    if more:
        raise UnsupportedError(
            f"model: has a second input `{more[0].name}`, allowed one",
            hint="give the argument a default, which it keeps",
        )


def _require_no_new_tensors(model: nn.Module, graph: fx.Graph) -> None:
    """Refuse a forward method that makes a tensor of numbers: torch.fx gave it a name, which the model has no more."""
    for node in graph.nodes:
        if node.op == "get_attr" and not hasattr(model, str(node.target).partition(".")[0]):
            reader = next(iter(node.users), node).name
            raise unsupported(
                f"function `{reader}` (of a tensor that the forward method makes)",
                "normalise the images before, and put other numbers into nn.Conv2d, nn.Linear or nn.BatchNorm2d",
            )


def trace_calls(model: nn.Module) -> fx.Graph:
    """Return what the forward method of `model` calls in the mode that it has, without what nothing reads.

    It runs the forward method, side effects included.

    Raises:
        UnsupportedError: the forward method depends on data.
    """
    try:
        with torch.enable_grad(), all_recorded(model):  # with gradients, so that a torch.no_grad() shows
            graph: fx.Graph = _Tracer().trace(model)
    except NctoolError:
        raise
    except Exception as error:  # whatever the forward method of a user raises
        raise _depends_on_data(model, error) from error
    for node in reversed(graph.nodes):
        if node.op in ("call_function", "call_method") and not node.users and changed_by(node, model) is None:
            graph.erase_node(node)
    return graph


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network in a wrapper, or in several, which computes the same; a network itself as it is.

    Raises:
        UnsupportedError: a wrapper has hooks, which may compute something else.
    """
    while _is_wrapper(model):
        _require_no_hooks(model, "model")
        model = getattr(model, WRAPPED[type(model).__name__])
    return model


def _is_wrapper(module: nn.Module) -> bool:
    kind = type(module)
    is_torch = kind.__module__.startswith("torch.")  # a class of the user's with such a name may do something else
    return is_torch and kind.__name__ in WRAPPED and kind.__name__ not in SHARDED


def require_unwrapped(model: nn.Module) -> None:
    """Refuse with a UsageError a wrapper of a network: it gives the tensors other names."""
    kind = type(model).__name__
    if kind in WRAPPED:
        raise UsageError(f"model: got {kind}, allowed the network in it", hint=f"give model.{WRAPPED[kind]}")


def require_type(model: nn.Module, allowed: tuple[torch.dtype, ...]) -> None:
    """Refuse with an UnsupportedError a network whose parameters have a floating type that is not allowed."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype not in allowed:
            raise UnsupportedError(
                f"parameter `{name}`: is {parameter.dtype}, allowed {' or '.join(map(str, allowed))}",
                hint="model.float() makes all of them torch.float32",
            )


def _require_as_its_class(module: nn.Module, where: str) -> None:
    """Refuse a module that computes something else than its class says: by hooks, or by methods of its own.

    Raises:
        UnsupportedError: torch calls more, or something else, than the forward method of the class.
    """
    kind = type(module).__name__
    _require_no_hooks(module, where)
    replaced = [name for name in vars(module) if inspect.isroutine(getattr(type(module), name, None))]
    if replaced:
        raise unsupported(
            f"{where} ({kind} whose method {', '.join(replaced)} is replaced on the object)",
            "put what it computes into the weights, or write a class of your own with this method",
        )


def _require_no_hooks(module: nn.Module, where: str) -> None:
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    if hooks:
        raise unsupported(f"{where} ({type(module).__name__} with the forward hook {_names(hooks)})", HOOK_HINT)


def _require_no_global_hooks() -> None:
    hooks = (*torch_module._global_forward_pre_hooks.values(), *torch_module._global_forward_hooks.values())
    if hooks:
        raise unsupported(
            f"model (with the forward hook {_names(hooks)} for all modules)",
            "remove it: handle.remove(), of what torch.nn.modules.module.register_module_forward_hook gave",
        )


def _require_sizes(model: nn.Module) -> None:
    for name, module in model.named_modules():
        tensors: dict[str, Any] = {**module._parameters, **module._buffers}
        for own, tensor in tensors.items():
            if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
                raise unsupported(
                    f"module `{name}` ({type(module).__name__} whose {own} has no size yet)",
                    "run the model once on some images, which gives it its sizes: model(images)",
                )


def _names(hooks: tuple[Callable[..., Any], ...]) -> str:
    return ", ".join(getattr(hook, "__name__", type(hook).__name__) for hook in hooks)


class _Proxy(fx.Proxy):
    """What stands for a tensor while its module is traced: it sees `y += x` as what it is, not as `y = y + x`."""

    def __bool__(self) -> bool:
        """Let an assert hold: it is made in earnest when the module runs on images."""
        frame = inspect.currentframe()
        caller = None if frame is None else frame.f_back
        statement = None if caller is None else _assert_at(caller.f_code.co_filename, caller.f_lineno)
        return not _is_negation(statement.test) if statement else super().__bool__()

    def __format__(self, _: str) -> str:
        return repr(self)  # for what prints it

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("data", "grad"):
            raise unsupported(
                f"`{self.node.target}` (whose .{name} the forward method sets)",
                "write z = 2 * z, not z.data = 2 * z.data",
            )
        super().__setattr__(name, value)


def _recorded(function: Callable[[Any, Any], Any]) -> Callable[[fx.Proxy, Any], Any]:
    def record(self: fx.Proxy, value: Any) -> Any:
        name = function.__name__.removeprefix("i")
        return self.tracer.create_proxy("call_function", function, (self, value), {}, name=name)

    return record


for _operator in IN_PLACE_OPERATORS:
    setattr(_Proxy, f"__{_operator.__name__}__", _recorded(_operator))


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)  # type: ignore[no-any-return]  # torch.fx is untyped

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, NoisyQuantReLU | Rectifier) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Go into a wrapper, which calls the module in it."""
        while _is_wrapper(m):
            _require_as_its_class(m, f"module `{self.path_of_module(m)}`")
            m = getattr(m, WRAPPED[type(m).__name__])
            forward = m.forward
        return super().call_module(m, forward, args, kwargs)

    def create_args_for_root(self, root_fn: Callable[..., Any], *_: Any, **__: Any) -> tuple[Any, list[Any]]:
        """Give the forward method its input, and what else it must have; Python fills in the defaults."""
        parameters = list(inspect.signature(root_fn).parameters.values())[1:]
        needed = [value for value in parameters if value.kind in _POSITIONAL and value.default is value.empty]
        inputs = needed or parameters[:1]
        return root_fn, [self.root, *(self.create_proxy("placeholder", parameter.name, (), {}) for parameter in inputs)]

    def create_node(self, *arguments: Any, **options: Any) -> fx.Node:
        """Mark a call that gets no gradients."""
        node: fx.Node = super().create_node(*arguments, **options)
        node.meta[WITHOUT_GRADIENTS] = not torch.is_grad_enabled()
        return node


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _depends_on_data(model: nn.Module, error: Exception) -> UnsupportedError:
    """Say which line of the forward method cannot be read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.line for frame in reversed(frames) if not frame.filename.startswith(_LIBRARIES)), "") or ""
    by_reason = (hint for words, hint in _BY_REASON.items() if words in reason)
    hint = next(by_reason, _BY_STATEMENT.get(_statement(line), _IN_ORDER))
    place = f" at `{line}`" if line else ""
    what = "calls a module that the model does not hold" if _NOT_HELD in reason else "depends on data"
    return UnsupportedError(f"model `{type(model).__name__}`: its forward method {what}{place} ({reason})", hint=hint)


def _assert_at(file: str, line: int) -> ast.Assert | None:
    """Return the assert that a line of code is in, if no other statement begins on its lines."""
    tree = ast.parse("".join(linecache.getlines(file)))
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    for statement in statements:
        if isinstance(statement, ast.Assert) and statement.lineno <= line <= (statement.end_lineno or 0):
            lines = range(statement.lineno, (statement.end_lineno or 0) + 1)
            return statement if sum(beside.lineno in lines for beside in statements) == 1 else None
    return None


def _is_negation(test: ast.expr) -> bool:
    return isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)


def _statement(line: str) -> str:
    """Return the first word of a line of code."""
    return line.strip().partition(" ")[0].partition("(")[0]
