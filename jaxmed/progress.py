"""Where people watch a run: a bar on a terminal, lines in a log, TensorBoard."""

import logging
import math
import sys

from tqdm import tqdm

LOG = logging.getLogger('jaxmed')
FIRST_UPDATE = 'first update is done'


class Progress:
    """Shows points as they come.

    A terminal gets a bar with loss, metric, images/s and the time left; anything else
    gets one plain line a point, which a log file keeps readable.

    Args:
        workdir: where TensorBoard's event file goes; None writes none.
        monitor: metric of the bar.
        render: rows of the validation split -> list of RGB pictures, or None.
    """

    def __init__(self, workdir, *, monitor, render=None):
        self._workdir, self._monitor, self._render = workdir, monitor, render
        self._bar, self._writer, self._shown = None, None, {}

    def start(self, step, steps):
        """Called once, before the first update."""
        if self._workdir is not None:
            # Imports PyTorch where that is installed: not for commands that only read.
            from tensorboardX import SummaryWriter

            # After a resume, what the killed run logged beyond its save is void.
            self._writer = SummaryWriter(str(self._workdir), purge_step=step + 1)
        self._steps = steps
        self._bar = tqdm(
            total=steps, initial=step, unit='step', dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )

    def begun(self):
        """Called when the first update is done: all is read and compiled."""
        if self._bar.disable:
            LOG.info(FIRST_UPDATE)

    def point(self, point, *, examples_per_s=None, input_wait=None):
        """One point of the curves, perhaps with rates of this machine."""
        step = point['step']
        values = {name: value for name, value in point.items() if name != 'step'}
        if self._writer is not None:
            rates = {'examples_per_s': examples_per_s, 'input_wait': input_wait}
            for name, value in (values | rates).items():
                if value is not None:
                    self._writer.add_scalar(name, value, step)
        if examples_per_s is not None:
            values['images/s'] = examples_per_s
        if self._bar.disable:
            words = ' '.join(f'{name} {_word(x)}' for name, x in values.items())
            LOG.info('step %d of %d: %s', step, self._steps, words)
            return
        self._shown |= {
            name: _word(values[name])
            for name in ('loss', self._monitor, 'images/s') if name in values
        }
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(step - self._bar.n)

    def pictures(self, step, rows):
        """A few predictions of the validation split."""
        if self._writer is None or self._render is None:
            return
        for number, picture in enumerate(self._render(rows)):
            self._writer.add_image(
                f'prediction/{number}', picture, step, dataformats='HWC'
            )

    def close(self):
        """Called once, after the last update."""
        self._bar.close()
        if self._writer is not None:
            self._writer.close()


def _word(value):
    return 'undefined' if math.isnan(value) else f'{value:.4g}'
