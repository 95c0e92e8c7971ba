"""The charts of a report page: what each shows, in Vega-Lite by Altair. Their rows come later, under the name `rows`.

One specification serves the page, which fills in the rows of the layer or the sample that is chosen, and files. Colours
are those of `nctool.figures.theme`.

In: a name. Out: an Altair chart; functions say which fields its rows have. Altair is imported when one is made.
"""

from __future__ import annotations

from typing import Any

ROWS = "rows"
"""The name of the data that every chart reads."""

HEIGHT = 220
"""Of a chart, in pixels; its width is that of its place."""

CORES_A_ROW = 16
"""Cores side by side on a map."""

_DOUBLINGS = [2**k for k in range(12)]

STEP = 20
"""Pixels of a row, where a chart has one for each layer."""


def chart(name: str) -> Any:
    """Return the Altair chart of this name; its width is that of the place where it is drawn."""
    return _CHARTS[name]().properties(width="container")


def names() -> tuple[str, ...]:
    """Return the names of all charts."""
    return tuple(_CHARTS)


def _base() -> Any:
    import altair as alt

    return alt.Chart(alt.NamedData(ROWS))


def _curves(x: str, y: str, *, percent: bool = False, named: str | None = "curve", doubling: bool = False) -> Any:
    """Return curves of `value` over `at`, one for each `curve`; those of `kind` reference are dashed.

    Args:
        x, y: titles of the axes.
        percent: `value` is a fraction, shown in percent.
        named: title of the legend; None for a single curve, without one.
        doubling: each doubling of `at` takes equal room.
    """
    import altair as alt

    tooltip = [alt.Tooltip("curve:N", title=named), alt.Tooltip("at:Q", title=x), _value_tooltip(y, percent)]
    dashes = alt.Scale(domain=["curve", "reference"], range=[[1, 0], [5, 4]])
    across = alt.Scale(type="log", base=2, nice=False) if doubling else alt.Scale(zero=False, nice=False)
    whole = alt.ExprRef("min(10, domain('x')[1] - domain('x')[0])")
    ticks = (
        alt.Axis(format="d", grid=False, values=_DOUBLINGS)
        if doubling
        else alt.Axis(tickCount=whole, format="d", grid=False)
    )
    lines = _base().mark_line(point={"filled": True, "size": 34})
    return lines.encode(
        alt.X("at:Q", title=x, axis=ticks, scale=across),
        alt.Y("value:Q", title=y, scale=alt.Scale(zero=False, nice=True), axis=_axis(percent)),
        alt.Color("curve:N", title=named, sort=None, legend=_legend("stroke") if named else None),
        alt.StrokeDash("kind:N", scale=dashes, legend=None),
        tooltip=tooltip,
    ).properties(height=HEIGHT)


def _axis(percent: bool) -> Any:
    import altair as alt

    return alt.Axis(format=".1~%", tickCount=6) if percent else alt.Axis(tickCount=6)


def _value_tooltip(title: str, percent: bool) -> Any:
    import altair as alt

    return alt.Tooltip("value:Q", title=title, format=".2%" if percent else ",.4~g")


def _legend(symbol: str = "square") -> Any:
    """Return a legend below a chart, which leaves a narrow screen its width."""
    import altair as alt

    return alt.Legend(orient="bottom", title=None, columns=3, symbolType=symbol, symbolStrokeWidth=3)


def _accuracy() -> Any:
    return _curves("time steps", "accuracy, %", percent=True, doubling=True)


def _loss() -> Any:
    return _curves("epoch", "training loss, nats", named=None)


def _accuracies() -> Any:
    return _curves("epoch", "accuracy, %", percent=True)


def _theta() -> Any:
    return _curves("epoch", "θ, in units of the pre-activation", named="layer")


def _gap() -> Any:
    return _curves("epoch", "σ, in units of the pre-activation", named="layer")


def _logits() -> Any:
    return _curves("time step", "logit, integer", named="class")


def _final_logits() -> Any:
    return _bars("logit, integer", number="~s")


def _histogram(title: str, counted: str, *, logarithmic: bool = False) -> Any:
    """Return bars `low`..`high` of height `count`."""
    import altair as alt

    scale = alt.Scale(type="log", base=2, nice=False) if logarithmic else alt.Scale(nice=False, zero=False)
    axis = alt.Axis(format=",d" if logarithmic else ".2~f", grid=False, labelOverlap=True)
    tooltip = [
        alt.Tooltip("low:Q", title="from"),
        alt.Tooltip("high:Q", title="to"),
        alt.Tooltip("count:Q", format=","),
    ]
    few = alt.ExprRef("min(5, domain('y')[1])")
    up = alt.Y("count:Q", title=counted, axis=alt.Axis(tickCount=few, format="~s"))
    across = alt.X("low:Q", title=title, scale=scale, axis=axis)
    return (
        _base().mark_rect().encode(across, up, x2="high:Q", y2=alt.datum(0), tooltip=tooltip).properties(height=HEIGHT)
    )


def _within_range(title: str, counted: str, *, logarithmic: bool = False) -> Any:
    """Return bars before the range that is allowed: the one row of `kind` allowed, which has no count."""
    bars = _histogram(title, counted, logarithmic=logarithmic)
    allowed = _base().transform_filter("datum.kind == 'allowed'").mark_rect(style="allowed")
    return (allowed.encode(bars.encoding.x, x2="high:Q") + bars.transform_filter("datum.kind == 'bar'")).properties(
        height=HEIGHT
    )


def _weights() -> Any:
    return _within_range("weight, integer; shaded: representable", "weights")


def _thresholds() -> Any:
    return _within_range("threshold, weight units; shaded: representable", "channels", logarithmic=True)


def _rates() -> Any:
    return _histogram("spikes a time step, of a neuron", "neurons")


def _bars(
    value: str,
    colour: str | None = None,
    *,
    parts: list[str] | None = None,
    stacked: bool = False,
    number: str = ",.3~r",
) -> Any:
    """Return a bar for each `layer`, from above in their order.

    Args:
        value: title of the axis of `value`.
        colour: what `part` is, which says the colour; None for one colour.
        parts: all that it may be, in order; None for what occurs.
        stacked: the bars of a layer lie one behind the other; otherwise there is one, with its value at its end.
        number: how values are written.
    """
    import altair as alt

    down = alt.Y("layer:N", sort=None, title=None, axis=alt.Axis(grid=False, labelLimit=130))
    across = alt.X("value:Q", title=value, axis=alt.Axis(tickCount=5, format=number), stack="zero" if stacked else None)
    tooltip = [alt.Tooltip("layer:N"), alt.Tooltip("value:Q", title=value, format=",.4~g")]
    bars = _base().mark_bar().encode(across, down)
    if colour is not None:
        tooltip.insert(1, alt.Tooltip("part:N", title=colour))
        scale = alt.Scale(domain=parts) if parts else alt.Scale()
        bars = bars.encode(color=alt.Color("part:N", sort=None, title=colour, scale=scale, legend=_legend()))
    bars = bars.encode(tooltip=tooltip)
    if not stacked:
        end = _base().transform_calculate(end="max(datum.value, 0)").mark_text(align="left", dx=4, fontSize=11)
        bars = bars + end.encode(alt.X("end:Q"), down, text=alt.Text("value:Q", format=",.3~r"))
    return bars.properties(height=alt.Step(STEP))


def _head_room() -> Any:
    return _bars("head-room, bits", "bound", parts=["proved", "calibrated"])


def _layer_rates() -> Any:
    return _bars("spikes a neuron and time step, mean")


def _errors() -> Any:
    return _bars("root mean square error, %")


def _operations() -> Any:
    return _bars("operations a sample, counted", "cause", stacked=True, number="~s")


def _energy() -> Any:
    return _bars("energy a sample, nJ")


def _grid(across: Any, down: Any, tooltip: list[Any], style: str = "cell") -> Any:
    """Return squares whose opacity is `shade`, 0..1."""
    import altair as alt

    shade = alt.FillOpacity("shade:Q", scale=alt.Scale(domain=[0, 1], range=[0, 1]), legend=None)
    return _base().mark_rect(style=style).encode(across, down, shade, tooltip=tooltip)


def _density() -> Any:
    import altair as alt

    axis, scale = alt.Axis(grid=False, values=[0, 0.25, 0.5, 0.75, 1], format=".2~f"), alt.Scale(nice=False, zero=False)
    across = alt.X("low:Q", title="activation of the ANN, parts of θ", axis=axis, scale=scale)
    up = alt.Y("below:Q", title="rate of the SNN, spikes a time step", axis=axis, scale=scale)
    tooltip = [
        alt.Tooltip("ann:Q", title="activation of the ANN", format=".3f"),
        alt.Tooltip("snn:Q", title="rate of the SNN", format=".3f"),
        alt.Tooltip("count:Q", title="activations", format=","),
    ]
    squares = _grid(across, up, tooltip).encode(x2="high:Q", y2="above:Q")
    squares = squares.transform_calculate(
        low="datum.ann - datum.width / 2",
        high="datum.ann + datum.width / 2",
        below="datum.snn - datum.height / 2",
        above="datum.snn + datum.height / 2",
    )
    line = alt.Chart(alt.InlineData([{"x": 0, "y": 0}, {"x": 1, "y": 1}])).mark_line(style="reference")
    return (squares + line.encode(x="x:Q", y="y:Q")).properties(height=HEIGHT + 60)


def _raster() -> Any:
    import altair as alt

    begins = "test(/, 1(-|$)/, datum.label)"
    label = f"{begins} ? split(datum.label, ', ')[0] : split(datum.label, ', ')[1]"
    axis = alt.Axis(grid=False, labelExpr=label, labelLimit=110, labelFontSize=10, ticks=False, domain=False)
    down = alt.Y("line:N", sort=None, title=None, axis=axis)
    across = alt.X("low:Q", title="neurons of the layer, first to last", scale=alt.Scale(domain=[0, 1], nice=False))
    across = across.axis(labels=False, ticks=False, grid=False)
    tooltip = [
        alt.Tooltip("line:N", title="layer, step"),
        alt.Tooltip("neurons:N"),
        alt.Tooltip("share:N", title="sent"),
    ]
    layer = alt.Color("layer:N", sort=None, legend=None)
    return _grid(across, down, tooltip).encode(layer, x2="high:Q").properties(height=alt.Step(13))


def _confusion(angle: float = 0) -> Any:
    """Return a matrix with its counts.

    Args:
        angle: of the names below it.
    """
    import altair as alt

    across = alt.X("answer:N", sort=None, title="answer", axis=alt.Axis(grid=False, labelAngle=angle, labelLimit=80))
    down = alt.Y("label:N", sort=None, title="label", axis=alt.Axis(grid=False, labelLimit=80))
    tooltip = [alt.Tooltip("label:N"), alt.Tooltip("answer:N"), alt.Tooltip("count:Q", format=",")]
    colour = alt.Color("right:N", scale=alt.Scale(domain=["right", "wrong"]), title=None, legend=_legend())
    squares = _grid(across, down, tooltip, "framed").encode(colour)
    dark, light = "datum.count > 0 && datum.shade > 0.55", "datum.count > 0 && datum.shade <= 0.55"
    texts = [
        _base().transform_filter(which).mark_text(style=style, fontSize=10).encode(across, down, text="count:Q")
        for which, style in ((dark, "on_dark"), (light, "on_light"))
    ]
    return (squares + texts[0] + texts[1]).properties(height=HEIGHT + 120)


def _confusion_of_names() -> Any:
    return _confusion(-50)


def _confusion_of_many() -> Any:
    """Return a matrix without counts, for which there is no room."""
    import altair as alt

    axis = alt.Axis(grid=False, labelOverlap=True, labelLimit=80)
    across, down = (
        alt.X("answer:N", sort=None, title="answer", axis=axis),
        alt.Y("label:N", sort=None, title="label", axis=axis),
    )
    tooltip = [alt.Tooltip("label:N"), alt.Tooltip("answer:N"), alt.Tooltip("count:Q", format=",")]
    colour = alt.Color("right:N", scale=alt.Scale(domain=["right", "wrong"]), title=None, legend=_legend())
    return _grid(across, down, tooltip, "framed").encode(colour).properties(height=HEIGHT + 300)


def _cores(colour: str) -> Any:
    """Return a square for each core, chip below chip; its opacity is how full it is of what it has least of."""
    import altair as alt

    places = alt.Scale(domain=list(range(CORES_A_ROW)))
    across = alt.X(
        "column:O", title="core of the row", scale=places, axis=alt.Axis(labels=False, ticks=False, grid=False)
    )
    down = alt.Y("row:N", sort=None, title=None, axis=alt.Axis(grid=False, ticks=False, labelOverlap=True))
    tooltip = [
        alt.Tooltip("core:Q"),
        alt.Tooltip("holds:N"),
        alt.Tooltip("resource:N", title="fullest"),
        alt.Tooltip("full:Q", title="full", format=".0%"),
    ]
    filled = alt.FillOpacity("full:Q", scale=alt.Scale(domain=[0, 1], range=[0.25, 1]), legend=None)
    part = alt.Color(f"{colour}:N", sort=None, title=None, legend=_legend())
    squares = _base().mark_rect(style="framed").encode(across, down, part, filled, tooltip=tooltip)
    return squares.properties(height=alt.Step(26))


def _cores_by_layer() -> Any:
    return _cores("layer")


def _cores_by_resource() -> Any:
    return _cores("resource")


_CHARTS = {
    "accuracy": _accuracy,
    "loss": _loss,
    "accuracies": _accuracies,
    "theta": _theta,
    "gap": _gap,
    "weights": _weights,
    "thresholds": _thresholds,
    "rates": _rates,
    "density": _density,
    "head_room": _head_room,
    "layer_rates": _layer_rates,
    "errors": _errors,
    "raster": _raster,
    "logits": _logits,
    "final_logits": _final_logits,
    "confusion": _confusion,
    "confusion_of_names": _confusion_of_names,
    "confusion_of_many": _confusion_of_many,
    "cores_by_layer": _cores_by_layer,
    "cores_by_resource": _cores_by_resource,
    "operations": _operations,
    "energy": _energy,
}
