"""Make the page: read, compare, run, and put together what each network shows.

In: subjects and options. Out: a Page, and what was found of each network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version

from torch import nn

from nctool.errors import NctoolError
from nctool.progress import ProgressCallback
from nctool.reporting import chip, densities, layers, origin, samples, training
from nctool.reporting.elements import Element, Figure, Head, LeftOut, Page, Section, Table, Verdict
from nctool.reporting.measuring import (
    ALL_WORK,
    Activity,
    Answers,
    Data,
    answer_all,
    n_within,
    trace_of,
    watch_spikes,
)
from nctool.reporting.subjects import Subject
from nctool.reporting.texts import counted, percent, shape_of
from nctool.reporting.verdicts import Judgement, default_samples, judge
from nctool.running.model_file import ModelFile
from nctool.running.samples import trained_on
from nctool_models import restore_model

SHOWN = 12
"""Samples of the raster, shared by the networks of a page."""

FEWEST_SHOWN = 3

LoadData = Callable[[Subject, ModelFile, int | None], Data]
"""Loads samples for a network: all of them, or the first so many."""

Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Options:
    """How a page is made.

    Args:
        engines: that are compared, the standard first.
        verify: samples that they are compared on; None for as many as the network's size allows.
        samples: that the accuracy is measured on; None for as many as its size allows.
        is_named: the user named the samples, so that it is an error if they cannot be had.
        is_limited: the user said where, or how many: an error too, where the file names a data set.
        load: gives the samples.
        device: of the fast engine.
        timeout_s: seconds that one run of the Lava subprocess may take.
        model: the network of the checkpoint, where it is the user's own.
    """

    engines: tuple[str, ...]
    verify: int | None
    samples: int | None
    is_named: bool
    is_limited: bool
    load: LoadData
    device: str
    timeout_s: float
    model: nn.Module | None


@dataclass(frozen=True, eq=False)
class Found:
    """All that was found out of one network.

    Args:
        judgement: None for a run that nothing was exported of.
        data: None where there are no samples; `why_no_data` says why.
        answers, activity, shown: None where the network did not run.
        density: of each layer; empty where `why_no_density` says why.
        size: on the chip.
    """

    subject: Subject
    judgement: Judgement | None = None
    data: Data | None = None
    why_no_data: str = ""
    answers: Answers | None = None
    activity: Activity | None = None
    shown: samples.Shown | None = None
    density: Mapping[str, object] = field(default_factory=dict)
    why_no_density: str = ""
    size: chip.Size = field(default_factory=chip.Size)


STAGES = 6


def build(subjects: Sequence[Subject], options: Options, progress: ProgressCallback) -> tuple[Page, list[Found]]:
    """Return the page of some networks, and what was found of each."""
    found = [
        _found(
            subject,
            options,
            max(FEWEST_SHOWN, SHOWN // len(subjects)),
            _Stages(progress, k, len(subjects), subject.name),
        )
        for k, subject in enumerate(subjects)
    ]
    title = found[0].subject.name if len(found) == 1 else f"{len(found)} networks side by side"
    heads = [_head(each) for each in found]
    compared = _compared(heads) if len(heads) > 1 else None
    sections = _without_empty(tuple(_sections(found)), [head.name for head in heads])
    return Page(f"nctool report: {title}", heads, sections, compared, _footer(subjects)), found


class _Stages:
    """Tells how far the work of all networks is, in hundredths of a stage."""

    def __init__(self, progress: ProgressCallback, number: int, networks: int, name: str) -> None:
        self._progress, self._first, self._total, self._name = progress, number * STAGES, networks * STAGES, name
        self._stage = 0

    def begin(self, message: str) -> Told:
        """Begin the next stage; return what tells how far it is."""
        stage, self._stage = self._first + self._stage, self._stage + 1

        def told(done: int, total: int) -> None:
            of = f", {done:,} of {total:,}" if total > 1 else ""
            self._progress(100 * stage + 100 * done // max(total, 1), 100 * self._total, f"{self._name}: {message}{of}")

        told(0, 1)
        return told


def _found(subject: Subject, options: Options, n_shown: int, stages: _Stages) -> Found:
    if subject.content is None or subject.path is None:
        return Found(
            subject, why_no_data="nothing was exported of this run", why_no_density="nothing was exported of this run"
        )
    stages.begin("reading samples")
    data, why = _data(subject, options)
    judgement = _judgement(subject, data, why, options, stages.begin("comparing engines"))
    stages.begin("placing neurons on cores")
    if data is not None:
        subject = replace(subject, content=data.content)  # a file of another tool takes its window from the samples
    found = Found(subject, judgement, data, why, size=chip.size_of(subject))
    if data is None or judgement is None or not judgement.may_run:
        why = (
            why
            or "the engines differ, or the file is not what was exported: its figures would not be those of the network"
        )
        return replace(found, data=None, why_no_data=why, why_no_density=why)
    answers = answer_all(data, options.device, stages.begin("running samples"))
    activity = watch_spikes(data, options.device, stages.begin("counting spikes and operations"))
    numbers = samples.chosen_samples(data, answers, n_shown)
    shown = samples.Shown(numbers, list(trace_of(data, numbers, options.device)))
    density, no_density = _density(subject, data, options, stages.begin("comparing with the ANN"))
    return replace(found, answers=answers, activity=activity, shown=shown, density=density, why_no_density=no_density)


def _data(subject: Subject, options: Options) -> tuple[Data | None, str]:
    """Return the samples, or the known inputs of the file where there are none, or None and why."""
    content = subject.content
    if content is None:
        return None, "nothing was exported of this run"
    try:
        data = options.load(subject, content, options.samples)
    except NctoolError as error:
        if options.is_named or (options.is_limited and trained_on(content) is not None):
            raise
        known = content.known_answers
        if known is None:
            return None, error.message if error.hint is None else f"{error.message}: {error.hint}"
        name = "the known inputs of the file"
        return Data(name, content, known.pixels, None, len(known.pixels), instead_of=error.message), ""
    within = n_within(ALL_WORK, data.network, 1, len(data.samples)) if options.samples is None else len(data.samples)
    labels = None if data.labels is None else data.labels[:within]
    return replace(data, samples=data.samples[:within], labels=labels), ""


def _judgement(subject: Subject, data: Data | None, why: str, options: Options, told: Told) -> Judgement | None:
    content = subject.content if data is None else data.content
    if content is None or subject.path is None:
        return None
    wanted = default_samples(content.network) if options.verify is None else options.verify
    pixels, named = (None, why) if data is None else (data.samples, data.name)
    return judge(subject.path, content, pixels, named, options.engines, wanted, options.timeout_s, told)


def _density(subject: Subject, data: Data, options: Options, told: Told) -> tuple[Mapping[str, object], str]:
    checkpoint = subject.checkpoint
    if checkpoint is None:
        return {}, subject.no_run
    if data.network.is_graded:
        return {}, "the file does not say what a graded spike of 1 is worth"
    try:
        return densities.densities(checkpoint, restore_model(checkpoint, options.model), data, options.device, told), ""
    except NctoolError as error:
        if options.model is not None:
            raise
        return {}, error.message


# --- what it shows ----------------------------------------------------------------------------------------------------


def _head(found: Found) -> Head:
    subject, judgement = found.subject, found.judgement
    if judgement is None:
        verdict = Verdict("open", "nothing exported", [f"`{subject.how_to_export}` makes a network"])
    else:
        verdict = judgement.verdict
    numbers = [*_accuracies(found), *_sizes(found)]
    notes = () if subject.content is None else subject.content.notes
    return Head(subject.name, _what(subject), verdict, numbers, notes)


def _what(subject: Subject) -> str:
    """Say in a line what the network is."""
    if subject.content is None:
        name = subject.checkpoint.recipe.name if subject.checkpoint else "unfinished"
        return f"Training run, recipe {name}, {counted(len(subject.epochs), 'epoch')}"
    network, metadata = subject.content.network, subject.metadata
    n_layers, shape = counted(len(network.populations), "layer"), shape_of(network.input.sample_shape)
    sizes = f"{n_layers}, input {shape}, T = {network.n_steps}"
    if metadata is None:
        return f"Netx file of another tool: {sizes}"
    provenance = metadata.provenance
    origin_ = "" if provenance is None else provenance.recipe or provenance.model or ""
    made = f"{origin_}, for " if origin_ else "For "
    return f"{made}{metadata.target}, backend {metadata.backend}: {sizes}, {metadata.weight_bits}-bit weights"


def _accuracies(found: Found) -> Iterator[tuple[str, str, str]]:
    subject, answers, data = found.subject, found.answers, found.data
    if answers is not None and answers.accuracy is not None and data is not None:
        steps = len(answers.accuracy)
        n = f"{data.name}, {counted(len(data.samples), 'sample')}"
        n += "" if len(data.samples) == data.available else f" of {data.available:,}"
        yield f"Integers, T = {steps}", percent(float(answers.accuracy[-1])), n
        yield from _of_lava(found, answers, data)
    measured = "all test images, at the end of the training"
    wanted = subject.metadata.n_steps if subject.metadata else max(subject.accuracy_snn, default=0)
    if wanted in subject.accuracy_snn:
        yield f"Float SNN, T = {wanted}", percent(subject.accuracy_snn[wanted]), measured
    if subject.accuracy_ann is not None:
        yield "ANN", percent(subject.accuracy_ann), measured


def _of_lava(found: Found, answers: Answers, data: Data) -> Iterator[tuple[str, str, str]]:
    """Yield the accuracy on Lava, where it ran here and was equal in every spike and logit."""
    judgement = found.judgement
    if judgement is None or not judgement.is_equal or "lava" not in judgement.engines or data.labels is None:
        return
    n = min(judgement.samples, len(data.labels))
    right = float((answers.answers[:n] == data.labels[:n]).mean())
    yield "Lava", percent(right), f"the {counted(n, 'sample')} that ran on it, equal in every spike"


def _sizes(found: Found) -> Iterator[tuple[str, str, str]]:
    subject, size = found.subject, found.size
    if subject.content is None:
        return
    network = subject.content.network
    neurons = sum(population.n_neurons for population in network.populations)
    synapses = sum(network.synapse_count(population) for population in network.populations)
    if size.filled is not None:
        fullest = max(size.filled.fullest.items(), key=lambda item: item[1])
        note = f"{counted(size.chips, 'chip')}; fullest: {fullest[1]:.0%} of {fullest[0].replace('_', ' ')}"
        yield "Cores", f"{size.cores:,}", note
    else:
        yield "Cores", "not placed", size.why_not
    yield "Neurons", f"{neurons:,}", counted(synapses, "synapse")
    yield "Cost of a sample", *chip.cost_number(found.activity)
    cost = found.activity.cost if found.activity else None
    if cost is not None:
        yield "Latency", counted(cost.latency_steps, "step"), f"a sample every {counted(cost.period_steps, 'step')}"


def _compared(heads: Sequence[Head]) -> Table:
    """Return a row for each number that some network has."""
    rows: dict[str, list[str]] = {"Engines": [head.verdict.word for head in heads]}
    for position, head in enumerate(heads):
        for name, value, _ in head.numbers:
            plain = name.partition(", T")[0]
            steps = name.partition(", ")[2]
            rows.setdefault(plain, ["–"] * len(heads))[position] = f"{value} ({steps})" if steps else value
    content = [[name, *values] for name, values in rows.items()]
    return Table("Numbers", ["", *(head.name for head in heads)], content)


def _sections(found: Sequence[Found]) -> Iterator[Section]:
    def columns(make: Callable[[Found], Iterator[Element]]) -> list[list[Element]]:
        return [list(make(each)) for each in found]

    text = "How many time steps are enough, and what the integers lose."
    yield Section("accuracy", "Accuracy", text, [list(_accuracies_of(found))])
    runs = {each.subject.run for each in found}
    training_of = found[:1] if len(runs) == 1 and None not in runs else found
    histories = [list(training.epochs(each.subject)) for each in training_of]
    yield Section("training", "Training", "What the run measured, epoch by epoch.", histories)
    text = "Choose a layer: its integers, and what its neurons do."
    yield Section("layers", "Layer by layer", text, columns(_layer), "layer")
    text = "Where the room is short, where the spikes are, where accuracy is lost."
    yield Section("all-layers", "All layers", text, columns(lambda each: layers.together(each.subject, each.activity)))
    text = "Choose a sample: it runs through all layers."
    yield Section("samples", "One sample", text, columns(_sample), "sample")
    text = "What is taken for what, and the mistakes that are made most confidently."
    yield Section("answers", "Answers", text, columns(_answers))
    yield Section("chip", "Chip", "What fills the cores, and what a sample costs.", columns(_chip))
    text = "Every step from the trained network to integers."
    yield Section("changes", "Conversion", text, columns(lambda each: origin.changes(each.subject)))
    text = "What it was made from, and digests to know it by."
    yield Section("origin", "Origin", text, columns(lambda each: origin.provenance(each.subject)))


def _without_empty(sections: Sequence[Section], names: Sequence[str]) -> Sequence[Section]:
    """Return the sections that show something, and behind them one that says why the others do not."""
    shown, rows = [], list[list[str]]()
    for section in sections:
        left_out = [
            [each.what, each.why, name]
            for name, column in zip(names, section.columns, strict=False)  # one column may be of all networks
            for each in column
            if isinstance(each, LeftOut)
        ]
        if sum(map(len, section.columns)) > len(left_out):
            shown.append(section)
        else:
            rows += left_out
    if not rows:
        return shown
    header = ["what", "why", "network"][: 2 + (len(names) > 1)]
    table = Table("What does not apply, or is not known", header, [row[: len(header)] for row in rows])
    return [*shown, Section("left-out", "Left out", "What this page has no figures of, and why.", [[table]])]


def _accuracies_of(found: Sequence[Found]) -> Iterator[Element]:
    if len(found) > 1:
        return training.accuracies_together(
            [
                (each.subject, each.answers, each.why_no_data if each.data is None else each.data.why_no_labels)
                for each in found
            ]
        )
    (one,) = found
    return training.accuracy(one.subject, one.data, one.answers, one.why_no_data)


def _layer(found: Found) -> Iterator[Element]:
    yield from layers.one_by_one(found.subject, found.activity)
    if found.density:
        table = {"ann": "activation, of θ", "snn": "rate", "count": "activations"}
        yield Figure("density", "Activation of the ANN against rate of the SNN", table, found.density, "layer")  # type: ignore[arg-type]
    elif found.subject.content is not None:
        yield LeftOut("Activation of the ANN against rate of the SNN", found.why_no_density)


def _sample(found: Found) -> Iterator[Element]:
    if found.data is None or found.answers is None or found.shown is None:
        yield LeftOut("Spikes of a sample", found.why_no_data)
        return
    yield from samples.one_by_one(found.data, found.answers, found.shown)


def _answers(found: Found) -> Iterator[Element]:
    return samples.answers_together(found.data, found.answers, samples.MISTAKES, found.why_no_data)


def _chip(found: Found) -> Iterator[Element]:
    metadata = found.subject.metadata
    target = None if metadata is None else metadata.chip
    yield from chip.cores(found.size, target)
    if found.subject.content is not None:
        yield from chip.cost(found.activity, target)


def _footer(subjects: Sequence[Subject]) -> str:
    paths = " ".join(str(subject.path or subject.run) for subject in subjects)
    made = f"Made by nctool {version('nctool')} from {paths}."
    return f"{made} The page fetches nothing: style, charts and numbers are in this file."
