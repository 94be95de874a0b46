"""The commands. `run(main)` turns bad input into one line and exit code 2."""

import json
import logging
import math
import os
import platform
import shlex
import sys
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging

from jaxmed.errors import InputError

# Compiled programs are kept between runs; JAX_COMPILATION_CACHE_DIR moves them.
CACHE = os.path.join(os.path.expanduser('~'), '.cache', 'jaxmed', 'xla')
FLAG = 'xla_force_host_platform_device_count'
# Memory on huge pages, from one heap that is never handed back to the kernel.
MALLOC = ':'.join(f'glibc.malloc.{setting}' for setting in (
    'hugetlb=1', 'arena_max=1', 'mmap_max=0', f'trim_threshold={1 << 40}',
))


def run(main):
    """Runs an absl main: exit code 0, or what it returns, or 2 on bad input."""
    _keep_memory()
    sys.exit(_guard(lambda: app.run(main, flags_parser=_parse)))


def command():
    """The command line of this process, to be run again."""
    module = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    return shlex.join([sys.executable, '-m', f'launch.{module}', *sys.argv[1:]])


def parse_options(pairs):
    """['sweep=crops', 'overlap_px=32'] -> {'sweep': 'crops', 'overlap_px': 32}.

    Several values are in brackets, 'size_hw=(480,640)' or with [], though a list flag
    comes cut at their commas: ['size_hw=(480', '640)']. Places become absolute: a
    cluster's machines have folders of their own.
    """
    options = {}
    for pair in _join_brackets(pairs):
        name, equals, text = pair.partition('=')
        if not equals:
            raise InputError('--task', f'{pair!r} is not NAME=VALUE')
        bracketed = text.startswith('(') and text.endswith(')')
        try:
            options[name] = json.loads(
                f'[{text[1:-1].rstrip(" ,")}]' if bracketed else text)
        except ValueError:
            options[name] = text
    for name in ('detector', 'landmark_model', 'cache'):
        if options.get(name):
            options[name] = str(Path(str(options[name])).absolute())
    return options


def _join_brackets(pairs):
    """Pairs of which those that leave a bracket open are joined with the next ones."""
    joined = []
    for pair in pairs:
        text = joined[-1].partition('=')[2] if joined else ''
        if any(text[:1] == first and text.count(first) > text.count(last)
               for first, last in ('()', '[]')):
            joined[-1] += f',{pair}'
        else:
            joined.append(pair)
    return joined


def print_results(results):
    """The table of a report, for a terminal: the first result with its intervals."""
    first, others = results[0], results[1:]
    headline = next(iter(first.values.values()))
    print(f'{first.source} on {first.data}: {headline["n_cases"]} cases of '
          f'{headline["n_patients"]} patients or groups')
    columns = [f'{result.source}, {result.data}' for result in others]
    print(f'{"":16}{"value":>8}  {"95% interval":17}' + ' '.join(columns))
    for name, value in first.values.items():
        if math.isnan(value['value']):
            print(f'{name:16}undefined: there is no case of a class that it takes')
            continue
        line = (f'{name:16}{value["value"]:8.4f}  '
                f'{value["low"]:.4f} - {value["high"]:.4f}  ')
        for column, result in zip(columns, others):
            other = result.values.get(name)
            text = '' if other is None else f'{other["value"]:.4f}'
            line += f'{text:>{len(column)}} '
        print(line.rstrip())


def _parse(argv):
    try:
        rest = flags.FLAGS(argv)
        if 'config' in flags.FLAGS:
            flags.FLAGS.config.task_name  # a file that failed to load tells it here
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as e:
        # Unknown fields and variants surface as errors of many kinds; the first one
        # in the chain says what the user did.
        reason = e
        while reason.__cause__ or reason.__context__:
            reason = reason.__cause__ or reason.__context__
        words = reason.args[0] if isinstance(reason, KeyError) else reason
        raise InputError('flags', str(words).replace('\n', ' ')) from None
    if len(rest) > 1:
        raise InputError('flags', f'unexpected arguments: {" ".join(rest[1:])}')
    _share_cpu(flags.FLAGS)
    configure()
    return rest


def _keep_memory():
    """Starts this process anew with malloc set to keep memory, where that is glibc's.

    On a CPU, XLA takes the memory of a program anew at each call, and glibc each time
    has the kernel map and clear it: 105,000 page faults a train step of paper 002's
    U-Net. With these settings the step takes 0.75 s rather than 0.92 s on two cores.
    The variable is read when a process starts; whoever sets it is left in charge.
    """
    if 'GLIBC_TUNABLES' not in os.environ and platform.libc_ver()[0] == 'glibc':
        os.environ['GLIBC_TUNABLES'] = MALLOC
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _share_cpu(values):
    """Makes several devices of a CPU, if they share the batch evenly and no one chose.

    XLA shares a convolution out by blocks of 64 features: one of fewer runs on one
    core, and two devices keep two cores busy. Paper 002's U-Net on two cores: forward
    0.28 -> 0.21 s, train step 0.96 -> 0.92 s. Wide networks lose by it, as each device
    updates all weights (VGG11: train step 2.1 -> 2.4 s), so their configs ask for one
    device in training. The flag is about the host platform; accelerators are not
    concerned.
    """
    sizes, devices = [values.batch_size] if 'batch_size' in values else [], 2
    if 'config' in values:
        sizes.append(values.config.train.batch_size)
        devices = values.config.runtime.cpu_devices
    chosen = os.environ.get('XLA_FLAGS', '')
    if (
        FLAG in chosen or not 1 < devices <= (os.cpu_count() or 1)
        or 'distributed' in values and values.distributed
        or any(size % devices for size in sizes)
    ):
        return
    os.environ['XLA_FLAGS'] = f'{chosen} --{FLAG}={devices}'.strip()


def configure():
    """Sets up JAX and the log of this process, as all commands do."""
    import jax

    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        jax.config.update('jax_compilation_cache_dir', CACHE)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
    # absl's log is the libraries' (orbax tells a page per save); ours is apart.
    absl_logging.set_verbosity(absl_logging.ERROR)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
    log = logging.getLogger('jaxmed')
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _guard(function):
    try:
        function()
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
