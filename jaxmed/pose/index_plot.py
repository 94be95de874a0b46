"""The index as a picture: over time, or of a person."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxmed.metrics import RED_FLAG
from jaxmed.pose import panel

_CALM, _RED = np.array(panel.CALM) / 255 * 0.75, np.array(panel.RED) / 255


def plot_index(time_s, index, low, high, *, quality_time_s, quality, size_hw, title=''):
    """The index over time, and below it how much of the person was seen.

    Args:
        time_s: [n], of each index: the end of its window.
        index: [n], NaN where there is none.
        low, high: [n] or None, its interval.
        quality_time_s: [m].
        quality: [m], the share of visible joints in each frame.
        size_hw: of the picture, in pixels.
        title: above it.

    Returns:
        uint8 [H, W, 3].
    """
    time_s = np.asarray(time_s, float)
    quality_time_s = np.asarray(quality_time_s, float)
    figure = _begin(size_hw)
    upper, lower = figure.subplots(
        2, 1, sharex=True, gridspec_kw={'height_ratios': [3, 1]})
    _plot_values(upper, time_s, np.asarray(index, float), low, high)
    upper.set_title(title, fontsize=10)
    lower.fill_between(
        quality_time_s, 0, np.asarray(quality, float), color='0.6', step='mid',
        linewidth=0)
    lower.set_ylim(0, 1)
    lower.set_ylabel('joints seen')
    lower.set_xlabel('time, s')
    ends = np.concatenate([time_s, quality_time_s])
    if len(ends) and ends.min() < ends.max():
        lower.set_xlim(ends.min(), ends.max() + 0.02 * (ends.max() - ends.min()))
    return _draw(figure)


def plot_person(index, low, high, windows, recordings, *, size_hw, title=''):
    """A person's index with its interval, and how well each recording was seen.

    Args:
        index: in [0, 1], of all recordings together.
        low, high: its interval; None where there is none.
        windows: [n], the indices that it is the mean of.
        recordings: list of (title, time_s [m], share of visible joints [m]).
        size_hw: of the picture, in pixels.
        title: above it.

    Returns:
        uint8 [H, W, 3].
    """
    figure = _begin(size_hw)
    grid = figure.add_gridspec(2, len(recordings), height_ratios=[1, 1.4])
    upper = figure.add_subplot(grid[0, :])
    _plot_overall(upper, index, low, high, windows)
    upper.set_title(title, fontsize=10)
    shared = None
    for number, (name, time_s, quality) in enumerate(recordings):
        lower = shared = figure.add_subplot(grid[1, number], sharey=shared)
        lower.fill_between(
            np.asarray(time_s, float), 0, np.asarray(quality, float), color='0.6',
            step='mid', linewidth=0)
        lower.set_ylim(0, 1)
        lower.set_title(name, fontsize=9)
        lower.set_xlabel('time, s')
        lower.tick_params(labelleft=number == 0)
        if number == 0:
            lower.set_ylabel('joints seen')
    return _draw(figure)


def _begin(size_hw):
    height, width = size_hw
    return Figure(figsize=(width / 100, height / 100), dpi=100, layout='constrained')


def _draw(figure):
    for axes in figure.axes:
        axes.grid(color='0.9', linewidth=0.6)
        axes.set_axisbelow(True)
        for edge in ('top', 'right'):
            axes.spines[edge].set_visible(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _plot_values(axes, time_s, index, low, high):
    axes.axhspan(RED_FLAG, 1, color=_RED, alpha=0.07, linewidth=0)
    axes.axhline(RED_FLAG, color=_RED, linewidth=1.2, linestyle='--')
    axes.text(0.005, RED_FLAG + 0.015, f'red flag over {RED_FLAG:g}', color=_RED,
              fontsize=8, transform=axes.get_yaxis_transform())
    if low is not None and high is not None:
        low, high = np.asarray(low, float), np.asarray(high, float)
        axes.fill_between(time_s, low, high, color='tab:blue', alpha=0.2, linewidth=0)
        axes.vlines(time_s, low, high, color='tab:blue', alpha=0.35, linewidth=1)
    axes.plot(time_s, index, color='0.25', linewidth=1.5)
    flagged = index > RED_FLAG
    # A lone index has no line to be seen by.
    size = float(np.clip(300 / max(len(index), 1), 6, 36))
    for chosen, colour in ((flagged, _RED), (~flagged, _CALM)):
        axes.scatter(time_s[chosen], index[chosen], s=size, color=[colour], zorder=3)
    if not np.isfinite(index).any():
        axes.text(0.5, 0.25, 'no index', ha='center', va='center', color='0.4',
                  transform=axes.transAxes)
    # Overshoots show: an index need not lie within 0 and 1.
    reach = np.concatenate([index, *(
        edge for edge in (low, high) if edge is not None)])
    reach = reach[np.isfinite(reach)]
    axes.set_ylim(min(0.0, *reach, 0.0) - 0.02, max(1.0, *reach, 1.0) + 0.02)
    axes.set_ylabel('index (0 best)')


def _plot_overall(axes, index, low, high, windows):
    axes.axvspan(RED_FLAG, 1, color=_RED, alpha=0.07, linewidth=0)
    axes.axvline(RED_FLAG, color=_RED, linewidth=1.2, linestyle='--')
    axes.text(RED_FLAG + 0.005, 0.93, f'red flag over {RED_FLAG:g}', color=_RED,
              fontsize=8, va='top', transform=axes.get_xaxis_transform())
    colour = _RED if index > RED_FLAG else _CALM
    words = f'{index:.2f}'
    if low is not None and high is not None:
        axes.hlines(0, low, high, color=[colour], alpha=0.35, linewidth=9)
        words += f' ({low:.2f} to {high:.2f})'
    if len(windows) > 1:
        axes.scatter(windows, np.full(len(windows), -0.45), s=12, color='0.45')
    axes.scatter([index], [0], s=90, color=[colour], zorder=3)
    axes.annotate(words, (index, 0), (0, 11), textcoords='offset points',
                  ha='left' if index < 0.2 else 'right' if index > 0.8 else 'center',
                  bbox=dict(boxstyle='square,pad=0.15', color='white', alpha=0.85))
    axes.set(xlim=(-0.02, 1.02), ylim=(-1, 1), yticks=[],
             xlabel='index (0 best) of all recordings together' + (
                 '; small dots: of their windows' if len(windows) > 1 else ''))
