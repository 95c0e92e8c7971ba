"""What each step of a conversion did, in words and numbers, and what a network has lost.

In: networks before and behind a step. Out: changes and notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from nctool.conversion.constants import Held
from nctool.conversion.float_network import Enlargement, FloatNetwork, FloatSynapse, Resized, Scaled
from nctool.conversion.graded.neurons import BELOW
from nctool.conversion.input_encoding import EncodedInput
from nctool.conversion.quantise.accumulator import finer_weights
from nctool.conversion.quantise.candidates import Errors
from nctool.ir.change import Change
from nctool.ir.network import InputEncoding, IntNetwork, Synapse
from nctool.ir.number_format import IntegerFormat

_TRAIN_AGAIN = "train the network again"
_MORE_SPIKES = "spikes are too few to tell what its ReLUs give, convert with more --steps or --replicas"
_NO_LOSSES: Mapping[str, float] = {}


def branches(network: FloatNetwork) -> list[tuple[str, FloatSynapse]]:
    """Return every synapse with what it is called: like its population, or like its module in a sum."""
    return [(p.name if len(p.synapses) == 1 else s.module, s) for p in network.populations for s in p.synapses]


def change_of_folding(step: str, names: list[str]) -> Change:
    """Return which synapses something was folded into."""
    return Change(step, f"into {', '.join(dict.fromkeys(names))}" if names else "nothing to fold", True)


def resized(network: FloatNetwork, kind: type[Resized]) -> list[str]:
    """Return what poolings, or enlargements, are folded into."""
    return [name for name, s in branches(network) if any(isinstance(pool, kind) for pool in s.pools)]


def changes_of_enlarging(network: FloatNetwork) -> tuple[Change, ...]:
    """Return into which weights enlargements of images were folded; nothing if there are none."""
    names = resized(network, Enlargement)
    return (change_of_folding("fold enlargements", names),) if names else ()


def changes_of_composing(network: FloatNetwork) -> tuple[Change, ...]:
    """Return into which linear layers others were composed, as no activation lies between; nothing if there are none.

    Args:
        network: as traced.
    """
    into: dict[str, list[str]] = {}
    for name, synapse in branches(network):
        into.setdefault(name, []).extend(_composed(synapse))
    texts = [f"{', '.join(dict.fromkeys(first))} into {name}" for name, first in into.items() if first]
    return (Change("compose linear layers", "; ".join(texts), True),) if texts else ()


def _composed(synapse: FloatSynapse) -> Iterator[str]:
    """Yield the names of the linear layers whose weights are in those of a synapse, the first ones first."""
    for part in synapse.composed:
        if isinstance(part.first, FloatSynapse):
            yield from _composed(part.first)
            yield part.first.module


def normalised(network: FloatNetwork) -> list[str]:
    """Return what batch normalisation is folded into: of a weighted sum, or of the spikes that it reads."""
    return [name for name, synapse in branches(network) if synapse.norm is not None or _is_of_norms(synapse)]


def _is_of_norms(synapse: FloatSynapse) -> bool:
    firsts = [part.first for part in synapse.composed]
    return any(isinstance(first, Scaled) or first.norm is not None or _is_of_norms(first) for first in firsts)


def changes_of_bounds(network: IntNetwork) -> tuple[Change, ...]:
    """Return which graded populations are bounded by a second one, if any."""
    names = {population.name for population in network.populations}
    below = [population.name for population in network.populations if f"{population.name}{BELOW}" in names]
    detail = f"of {', '.join(below)}: a second neuron for each"
    return (Change("bound activations", detail, True),) if below else ()


def change_of_replicas(copies: Mapping[str, int]) -> Change:
    """Return which populations have several replicas of a neuron for each activation."""
    several = [f"{name} {number}" for name, number in copies.items() if number > 1]
    return Change("copy units", f"units of {', '.join(several)}" if several else "one unit for each activation", True)


def changes_of_maxima(network: FloatNetwork, n_steps: int, is_graded: bool) -> tuple[Change, ...]:
    """Return which populations take maxima, if any, and what they are over several steps."""
    names = [population.name for population in network.populations if population.maximum]
    several = ", which over several steps is at least the largest count" if n_steps > 1 else ""
    how = "by neurons that send differences" if is_graded else f"a neuron fires where one of its window does{several}"
    detail = f"{', '.join(names)}: {how}"
    return (Change("take maxima", detail, True),) if names else ()


def change_of_absorbing(number_format: IntegerFormat) -> Change:
    """Return what a spike is worth to those that read it."""
    worth = "of 1 is worth its unit" if number_format.is_graded else "is worth its threshold"
    return Change("absorb spike values", f"a spike {worth}: folded into the weights behind it", True)


def changes_of_input(encoded: EncodedInput, n_steps: int) -> tuple[Change, ...]:
    """Return how pixels enter."""
    encoding, table = encoded.encoding, encoded.encoding.table
    if isinstance(encoding, InputEncoding):
        detail = f"pixels as integers {int(table.min())}..{int(table.max())}, one step per channel"
        return (Change("grade the input", detail, False, 0.5 / float(np.abs(table.astype(int)).max())),)
    channels, copies = encoding.sample_shape[0], len(table) // encoding.sample_shape[0]
    split = f"{channels} into {len(table)}, ON above the mean and OFF below it: the weights behind are copied"
    detail = f"a spike train for each of {len(table)} channels, its rate rounded to {n_steps} step{'s' * (n_steps > 1)}"
    return (
        Change("split the channels", split if copies > 1 else "nothing to split: all of one sign", True),
        Change("code the input as rates", detail, False, 0.5 / n_steps),
    )


def changes_of_choosing(real: FloatNetwork, losses: Mapping[str, float]) -> tuple[Change, ...]:
    """Return the neurons that were chosen for the ReLUs of a trained network, and what each layer loses."""
    chosen = [(p, p.threshold) for p in real.populations if p.threshold is not None and p.name in losses]
    return tuple(
        Change(
            f"choose neurons `{population.name}`",
            f"{'units' if population.graded else 'thresholds'} {threshold.min():.3g}..{threshold.max():.3g}; "
            f"{losses[population.name]:.1%} of what its ReLUs give is lost",
            False,
            output_error=losses[population.name],
        )
        for population, threshold in chosen
    )


def changes_of_holding(held: Mapping[str, Held]) -> tuple[Change, ...]:
    """Return what was held; spikes stay as they were, logits of classes that are never the answer do not."""
    parts = [f"`{name}`: {text}" for name, in_layer in held.items() for text in _held_parts(in_layer)]
    raised = [f"`{name}`: {', '.join(map(str, layer.raised))}" for name, layer in held.items() if layer.raised]
    stay = Change("hold what never changes", "; ".join(parts) or "nothing to hold", True)
    return (stay, *(Change("raise logits", f"of classes that are never the answer, {text}", False) for text in raised))


def _held_parts(held: Held) -> list[str]:
    counts = (
        (held.never, "channels that never fire {}"),
        (held.always, "channels that always fire {}"),
        (held.unread, "weights that see only padding or silence {}"),
    )
    return [text.format(number) for number, text in counts if number]


def changes_of_rounding(
    network: IntNetwork, errors: Mapping[str, Errors], number_format: IntegerFormat
) -> tuple[Change, ...]:
    """Return one change a synapse, with the bound of the population that it drives."""
    changes = []
    by_name = {population.name: population for population in network.populations}
    for name, of_population in errors.items():
        population = by_name.get(f"{name}{BELOW}", by_name[name])
        bound = population.bound
        kind = "not bounded" if bound is None else f"{bound.kind}, head-room {population.head_room_bits:.2f} bits"
        for synapse, error in zip(population.synapses, of_population.weights, strict=True):
            branch = f" from `{synapse.source}`" if len(population.synapses) > 1 else ""
            detail = f"{_weights(synapse, number_format)}; bound {kind}"
            changes.append(Change(f"round `{name}`{branch}", detail, False, error, of_population.output))
    return tuple(changes)


def _weights(synapse: Synapse, number_format: IntegerFormat) -> str:
    times = f" times {2**synapse.exponent}" if synapse.exponent > 0 else ""
    shift = f", sums shifted by {-synapse.exponent} bits" if synapse.exponent < 0 else ""
    low, high = int(synapse.weight.min()), int(synapse.weight.max())
    return f"weights {low}..{high}{times} of {number_format.weight_bits} bits{shift}"


def notes_of_fewer_images(used: int, given: int) -> tuple[str, ...]:
    """Return a note where a network is too large to be converted on all images that it was given."""
    return (
        () if used == given else (f"converted on {used} of {given} images: what its largest layer gives fills memory",)
    )


def notes_of_silence(
    real: FloatNetwork, held: Mapping[str, Held], losses: Mapping[str, float] = _NO_LOSSES
) -> tuple[str, ...]:
    """Return a note for each layer that sends nothing, whatever the image.

    Args:
        losses: of the layers whose neurons were chosen; one that loses something stands for ReLUs that give something.
    """
    names = [p.name for p in real.populations if p.threshold is not None and held[p.name].never == p.shape[0]]
    return tuple(
        f"no neuron of `{name}` can fire, whatever the image: {_MORE_SPIKES if losses.get(name) else _TRAIN_AGAIN}"
        for name in names
    )


def notes_of_lost_weights(real: FloatNetwork, rounded: IntNetwork, number_format: IntegerFormat) -> tuple[str, ...]:
    """Return a note for each branch of which no weight is left."""
    by_name = {population.name: population for population in rounded.populations}
    rounded_here = [by_name.get(f"{p.name}{BELOW}", by_name[p.name]) for p in real.populations]
    pairs = [(p, q) for p, q in zip(real.populations, rounded_here, strict=True) if not p.maximum]
    in_pairs = [(q, *synapses) for p, q in pairs for synapses in zip(p.synapses, q.synapses, strict=True)]
    return tuple(
        f"all weights of `{population.name}` from `{synapse.source}` round to 0: "
        + finer_weights([population], number_format, rounded.n_steps, otherwise=_TRAIN_AGAIN)
        for population, real_synapse, synapse in in_pairs
        if real_synapse.weight.any() and not synapse.weight.any()
    )
