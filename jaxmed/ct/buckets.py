"""Few array sizes for scans of any length, so that nothing recompiles per patient."""

SMALLEST = 64


def bucket(count):
    """The smallest of 64, 96, 128, 192, 256, 384, ... that holds `count`.

    Two steps an octave: at most half of an array is filler (a third, from the next
    size down), and scans from 64 to 1536 slices know ten sizes.

    Args:
        count: at least 1.

    Returns:
        int, a multiple of 32.
    """
    if count < 1:
        raise ValueError(f'count={count}, expected at least 1')
    size = SMALLEST
    while size < count:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size
