"""Rewrite the graph of a torch module so that every activation and pooling is a module of its own.

An activation becomes an `nn.ReLU` for each of its uses, or an `nn.Hardtanh` where it has an upper bound; functions
become the modules that convert, and a softmax behind the logits is left out. Maximum pooling stays, or becomes average
pooling if that is wanted. Activations come before pooling, and before what enlarges an image. What is not known here
stays as it is: the conversion refuses it by name.

In: a torch module, a graph of it, Facts of the graph. Out: an fx.GraphModule with the same parameters, the names of its
activations, the poolings that were replaced, and what was changed.
"""

from __future__ import annotations

from typing import Any

from torch import fx, nn
from torch.nn import functional

from nctool.conversion.trace.facts import Facts
from nctool.conversion.trace.functions import (
    DROPOUTS,
    ENLARGEMENTS,
    POOLINGS,
    SOFTMAXES,
    activation_of_function,
    activation_of_module,
    argument,
    dropout,
    enlargement,
    is_function,
    padding,
    pooling,
    strides,
)
from nctool.conversion.trace.hints import unsupported
from nctool.conversion.trace.in_place import name_of, take_out_changes
from nctool.conversion.trace.maxima import MAXIMA, NO_PLACES, MaximumPooling
from nctool.conversion.trace.obstacles import Obstacles
from nctool.conversion.trace.rewritten import Pooling, Replacement, Rewritten
from nctool.conversion.trace.shapes import pair
from nctool.conversion.trace.signals import as_image
from nctool.conversion.trace.tracing import JOINS
from nctool.conversion.trace.views import Views, reduced_axes, window
from nctool.ir.geometry import Pair, Shape

SEQUENCE_MAXIMA = (nn.MaxPool1d, nn.AdaptiveMaxPool1d)
ENLARGING = (nn.Upsample, nn.UpsamplingNearest2d, nn.PixelShuffle)
REPEATING = (nn.Upsample, nn.UpsamplingNearest2d)
"""Of these, what gives each channel on its own, as batch normalisation does."""

MEANS, SUMS, LARGEST = ("mean",), ("sum",), ("amax",)


def rewrite(
    model: nn.Module, graph: fx.Graph, facts: Facts, obstacles: Obstacles, pooling: Pooling = "maximum"
) -> Rewritten:
    """Return the rewritten model.

    Args:
        model: owner of the modules.
        graph: what was read from it; changed in place.
        facts: of this graph.
        obstacles: takes in what cannot be rewritten, which stays as it is.
        pooling: what becomes of maximum pooling.
    """
    return _Rewriter(model, graph, facts, obstacles, pooling).run()


class _Rewriter:
    """Replace one node after the other.

    Args:
        model: owner of the modules.
        graph: its forward method; changed in place.
        facts: of this graph.
        obstacles: takes in what cannot be rewritten.
        pooling: what becomes of maximum pooling.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, facts: Facts, obstacles: Obstacles, pooling: Pooling) -> None:
        self.graph, self.facts, self.obstacles, self.pooling = graph, facts, obstacles, pooling
        self.module = fx.GraphModule(model, graph, type(model).__name__)
        self.views = Views(self.module, facts)
        self.activations: list[str] = []
        self.resized: list[fx.Node] = []
        self.maxima: dict[str, MaximumPooling] = {}
        self.bounds: dict[str, float] = {}
        self.dropped: nn.Module | None = None
        self.replacements: dict[fx.Node, Replacement] = {}
        self._put_names: set[str] = set()

    def run(self) -> Rewritten:
        take_out_changes(self.graph, self.module, self.obstacles)
        for node in list(self.graph.nodes):
            with self.obstacles.noted(node):
                self._rewrite(node)
        self._drop_softmax()
        self._activate_before_resizing()
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.module.recompile()
        self.module.delete_all_unused_submodules()
        return self._rewritten()

    def _rewritten(self) -> Rewritten:
        called = {str(node.target) for node in self.graph.nodes if node.op == "call_module"}
        return Rewritten(
            self.module,
            tuple(name for name in self.activations if name in called),
            {name: pool for name, pool in self.maxima.items() if name in called},
            {name: bound for name, bound in self.bounds.items() if name in called},
            self.dropped,
            tuple(replaced for replaced in self.replacements.values() if replaced.before != replaced.after),
        )

    def _rewrite(self, node: fx.Node) -> None:
        if node.op not in ("call_module", "call_function", "call_method"):
            return
        if self.views.is_view(node):
            self._view(node)
        elif node.op == "call_module":
            self._rewrite_module(node)
        else:
            self._rewrite_function(node)

    def _rewrite_module(self, node: fx.Node) -> None:
        name = str(node.target)
        module = self.module.get_submodule(name)
        activation = activation_of_module(module, f"module `{name}` ({type(module).__name__})")
        if activation is not None:
            self._activate(node, self._unused(name, instead=name), activation)
        elif type(module) in (*MAXIMA, *SEQUENCE_MAXIMA):
            self._maximum(node, self._unused(name, instead=name), module)
        elif type(module) in ENLARGING:
            self.resized.append(node)
        elif type(module) in DROPOUTS.values() and module.inplace:
            self._put(node, name, type(module)(module.p))

    def _rewrite_function(self, node: fx.Node) -> None:
        activation = activation_of_function(node)
        if activation is not None:
            self._activate(node, self._unused(node.name), activation)
        elif is_function(node, POOLINGS):
            self._pool(node)
        elif is_function(node, ENLARGEMENTS):
            self._enlarge(node)
        elif is_function(node, DROPOUTS):
            self._put(node, self._unused(node.name), dropout(node))
        elif is_function(node, (*MEANS, *SUMS, *LARGEST)):
            self._reduce(node)
        elif node.target is functional.pad:
            self._put(node, self._unused(node.name), padding(node, self.facts))
        elif node.target in JOINS:
            self._count_axis(node)
        elif (steps := strides(node)) is not None:
            self._put(node, self._unused(node.name), nn.AvgPool2d(1, steps))

    def _activate(self, node: fx.Node, name: str, activation: nn.Module) -> None:
        """Put an activation of its own; its threshold from data is its bound at most."""
        if isinstance(activation, nn.Hardtanh):
            self.bounds[name] = activation.max_val
        self._put(node, name, activation, shown="NoisyQuantReLU")
        self.activations.append(name)

    def _pool(self, node: fx.Node) -> None:
        module: Any = pooling(node, self.facts)
        if type(module) in (*MAXIMA, *SEQUENCE_MAXIMA):
            module.return_indices = bool(node.kwargs.get("return_indices", False))
            self._maximum(node, self._unused(node.name), module)
        else:
            self._put(node, self._unused(node.name), module)

    def _maximum(self, node: fx.Node, name: str, module: Any) -> None:
        """Put the pooling, or the average that replaces it; `same_shapes` sees whether its windows are as many."""
        if module.return_indices:
            raise unsupported(f"module `{name}` ({type(module).__name__} with return_indices=True)", NO_PLACES)
        self.resized.append(node)
        pool = _of_images(module)
        if self.pooling == "maximum":
            self._put(node, name, pool)
            return
        is_adaptive = isinstance(pool, nn.AdaptiveMaxPool2d)
        self._put(
            node, name, nn.AdaptiveAvgPool2d(pool.output_size) if is_adaptive else nn.AvgPool2d(pair(pool.stride))
        )
        self.maxima[name] = pool

    def _enlarge(self, node: fx.Node) -> None:
        module = enlargement(node, self.facts)
        if module is not None:
            self._put(node, self._unused(node.name), module, argument(node, 0, "input", None))
            self.resized.append(node)

    def _activate_before_resizing(self) -> None:
        """Let an activation that follows maximum pooling, or an enlargement, come before it, where there are spikes.

        The maximum of what an activation lets through is what it lets through of the maximum; and what it lets through
        of repeated, or shuffled, neurons is that of each, repeated or shuffled.
        """
        for node in reversed(self.resized):
            here, after = node, self._exchanged(node)
            while after is not None:
                here.target, after.target = after.target, here.target
                self.facts.values[here] = self.facts.values.get(here.all_input_nodes[0], (None, None))
                here, after = after, self._exchanged(after)

    def _exchanged(self, node: fx.Node) -> fx.Node | None:
        """Return the node behind one, if both may change places: an activation, or a norm of repeated neurons."""
        after = next(iter(node.users)) if len(node.users) == 1 else node
        if after.target in self.activations:
            return after
        if after.op != "call_module" or type(self.module.get_submodule(str(node.target))) not in REPEATING:
            return None
        return after if type(self.module.get_submodule(str(after.target))) is nn.BatchNorm2d else None

    def _put(
        self, node: fx.Node, name: str, module: nn.Module, source: fx.Node | None = None, shown: str | None = None
    ) -> None:
        """Let `node` call `module`, which gets `name`, with the tensor that it had, or with `source`."""
        after = shown or type(module).__name__
        if node not in self.replacements:
            self.replacements[node] = Replacement(_where(node), self._called(node), after)
        self.module.add_submodule(name, module)
        self._put_names.add(name)
        node.op, node.target = "call_module", name
        node.args, node.kwargs = (source or node.all_input_nodes[0],), {}

    def _called(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return type(self.module.get_submodule(str(node.target))).__name__
        return name_of(node)

    # --- views, and means over the image ------------------------------------

    def _view(self, node: fx.Node) -> None:
        """Take a view of samples as what it does: nothing, flattening, or another number of axes."""
        tensor = node.all_input_nodes[0]
        root, shape = self.views.root(tensor), self.facts.shape(node)
        before = self.facts.shape(root)
        self.views.note(node, root)
        if shape is None or before is None or (root is tensor and self._is_plain_flatten(node)):
            return
        if shape == before:
            node.replace_all_uses_with(root)
        elif len(shape) == 1:
            self._put(node, self._unused(node.name), nn.Flatten(), root)
        elif len(shape) == 2 and before == as_image(shape):
            self._put(node, self._unused(node.name), nn.Flatten(2), root)
        elif len(before) == 2 and shape == as_image(before):
            self._put(node, self._unused(node.name), nn.Unflatten(2, (1, before[1])), root)

    def _is_plain_flatten(self, node: fx.Node) -> bool:
        """Return whether the conversion knows this flattening as it is."""
        if node.op == "call_module":
            module = self.module.get_submodule(str(node.target))
            return isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)
        axes = argument(node, 1, "start_dim", 0), argument(node, 2, "end_dim", -1)
        return is_function(node, ("flatten",)) and axes == (1, -1)

    def _reduce(self, node: fx.Node) -> None:
        """Put a pooling for a mean, a sum or a maximum over the height, the width or both."""
        tensor = node.all_input_nodes[0]
        root, view = self.views.root(tensor), self.facts.shape(tensor)
        image, shape = self.facts.shape(root), self.facts.shape(node)
        axes = None if view is None else reduced_axes(node, len(view) + 1)
        if not (axes and view and shape and image and len(image) in (2, 3)):
            return
        sizes = window(as_image(image), view, axes)
        if sizes is None:
            return
        with self.graph.inserting_before(node):
            pool = self.graph.create_node("call_module", node.name, (root,))
        self._put_reduction(node, pool, image, sizes)
        self._read_from(node, pool, shape)

    def _put_reduction(self, node: fx.Node, pool: fx.Node, image: Shape, sizes: Pair) -> None:
        """Let `pool` do to images of a shape what `node` does, but for the axes that it keeps."""
        channels, high, wide = as_image(image)
        self.replacements[pool] = Replacement(node.name, name_of(node), "AvgPool2d")
        name, is_whole = self._unused(node.name), sizes == (high, wide)
        if is_function(node, LARGEST):
            self._maximum(pool, name, nn.MaxPool2d(sizes))
        elif is_function(node, SUMS):
            self._put(pool, name, nn.AvgPool2d(sizes, divisor_override=1))
        elif is_whole:
            self._put(pool, name, nn.AdaptiveAvgPool2d(1) if len(image) == 3 else nn.AdaptiveAvgPool1d(1))
        else:
            self._put(pool, name, nn.AvgPool2d(sizes))
        left = (channels, high // sizes[0], wide // sizes[1])
        self.facts.set_shape(pool, left if len(image) == 3 else (channels, left[2]))

    def _read_from(self, node: fx.Node, pool: fx.Node, shape: Shape) -> None:
        """Let the readers of a reduction read `pool`, flattened where the axes are not kept."""
        self.views.note(node, pool)
        if shape == self.facts.shape(pool):
            node.replace_all_uses_with(pool)
        elif len(shape) == 1:
            self._put(node, self._unused(f"{node.name}_flat"), nn.Flatten(), pool)
            del self.replacements[node]

    def _count_axis(self, node: fx.Node) -> None:
        """Count the axis of a concatenation from the front."""
        axis, shape = argument(node, 1, "dim", 0), self.facts.shape(node)
        if isinstance(axis, int) and axis < 0 and shape is not None and "axis" not in node.kwargs:
            node.args, node.kwargs = (argument(node, 0, "tensors", ()), axis % (len(shape) + 1)), {}

    def _drop_softmax(self) -> None:
        """Leave out a softmax behind the logits: it keeps their order."""
        (output,) = (node for node in self.graph.nodes if node.op == "output")
        last = output.args[0]
        softmax = self._softmax(last) if isinstance(last, fx.Node) else None
        if softmax is not None and self.facts.shape(last) is not None and len(self.facts.shape(last) or ()) == 1:
            self.replacements[last] = Replacement(_where(last), self._called(last), "")
            self.dropped = softmax
            last.replace_all_uses_with(last.all_input_nodes[0])

    def _softmax(self, node: fx.Node) -> nn.Module | None:
        """Return the softmax over the classes that a node calls, or None."""
        if node.op == "call_module":
            module = self.module.get_submodule(str(node.target))
            is_known = type(module) in (nn.Softmax, nn.LogSoftmax) and module.dim in (None, 1, -1)
            return module if is_known else None
        if not is_function(node, SOFTMAXES) or argument(node, 1, "dim", None) not in (None, 1, -1):
            return None
        return nn.LogSoftmax(1) if name_of(node) == "log_softmax" else nn.Softmax(1)

    def _unused(self, name: str, instead: str | None = None) -> str:
        """Return `name`, or with a number where a module of this name is there already: each use has its own.

        Args:
            instead: name of the module that is replaced, which is free the first time.
        """
        while name in self._put_names or (name != instead and _has(self.module, name)):
            stem, _, number = name.rpartition("_")
            name = f"{stem}_{int(number) + 1}" if stem and number.isdecimal() else f"{name}_2"
        return name


def _where(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _has(module: nn.Module, name: str) -> bool:
    return any(taken == name for taken, _ in module.named_modules())


def _of_images(module: Any) -> MaximumPooling:
    """Return the pooling of images of height 1 that does what one of sequences does; torch lets it do this too."""
    if isinstance(module, nn.AdaptiveMaxPool1d):
        return nn.AdaptiveMaxPool2d((None, *_single(module.output_size)))
    if not isinstance(module, nn.MaxPool1d):
        return module  # type: ignore[no-any-return]  # it is one of images
    kernel, stride, dilation = (pair(value, 1) for value in (module.kernel_size, module.stride, module.dilation))
    return nn.MaxPool2d(kernel, stride, pair(module.padding, 0), dilation, ceil_mode=module.ceil_mode)


def _single(size: int | tuple[int]) -> tuple[int]:
    return (size,) if isinstance(size, int) else size
