"""Reading pictures: right pixels, or one line that says what is wrong."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from jaxmed.data import images
from jaxmed.errors import ImageError

LIMIT = 10**6


def pixels(*shape, seed=0, dtype=np.uint8):
    largest = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, largest, shape, dtype, endpoint=True)


def refuse(path, reason, read=images.read_image, max_pixels=LIMIT):
    """Asserts that `path` is refused in one line with its name and `reason`."""
    with pytest.raises(ImageError) as caught:
        read(path, max_pixels=max_pixels)
    message = str(caught.value)
    assert message.startswith(f'{path}: ') and '\n' not in message
    assert reason in message


@pytest.mark.parametrize('suffix', ['png', 'bmp', 'tif'])
def test_lossless_formats_keep_every_pixel_in_red_green_blue_order(tmp_path, suffix):
    expected = pixels(37, 21, 3)
    path = tmp_path / f'a.{suffix}'
    cv2.imwrite(str(path), expected[..., ::-1])
    image = images.read_image(path, max_pixels=LIMIT)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, expected)


def test_a_jpeg_differs_by_its_loss_only(tmp_path):
    expected = cv2.GaussianBlur(pixels(64, 48, 3), (0, 0), 6)
    cv2.imwrite(str(tmp_path / 'a.jpg'), expected[..., ::-1])
    image = images.read_image(tmp_path / 'a.jpg', max_pixels=LIMIT).astype(int)
    assert np.abs(image - expected).mean() < 3


def test_the_first_bytes_and_not_the_name_say_what_a_file_is(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), pixels(8, 8, 3))
    path = (tmp_path / 'a.png').rename(tmp_path / 'a.jpg')
    assert images.read_image(path, max_pixels=LIMIT).shape == (8, 8, 3)


def test_grey_becomes_three_equal_channels(tmp_path):
    expected = pixels(9, 7)
    cv2.imwrite(str(tmp_path / 'a.png'), expected)
    image = images.read_image(tmp_path / 'a.png', max_pixels=LIMIT)
    np.testing.assert_array_equal(image, np.stack([expected] * 3, -1))


@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_16_bit_grey_is_scaled_by_257(tmp_path, suffix):
    levels = np.array([[0, 128, 129, 257, 32896, 65406, 65407, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / f'a.{suffix}'), levels)
    # 128 / 257 = 0.498, 129 / 257 = 0.502, 32896 = 128 * 257, 65406 / 257 = 254.498
    expected = [[0, 0, 1, 1, 128, 254, 255, 255]]
    grey = images.read_grey(tmp_path / f'a.{suffix}', max_pixels=LIMIT)
    np.testing.assert_array_equal(grey, expected)
    image = images.read_image(tmp_path / f'a.{suffix}', max_pixels=LIMIT)
    np.testing.assert_array_equal(image[..., 2], expected)


def test_transparency_is_white_in_an_image_and_ignored_in_a_mask(tmp_path):
    clear = np.zeros((2, 3, 4), np.uint8)
    clear[0, :, 3] = 255  # black above, nothing below
    cv2.imwrite(str(tmp_path / 'a.png'), clear)
    image = images.read_image(tmp_path / 'a.png', max_pixels=LIMIT)
    np.testing.assert_array_equal(image[:, 0, 0], [0, 255])
    grey = images.read_grey(tmp_path / 'a.png', max_pixels=LIMIT)
    np.testing.assert_array_equal(grey, np.zeros((2, 3)))


def test_palettes_are_looked_up(tmp_path):
    picture = Image.new('P', (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 0])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / 'a.png')
    image = images.read_image(tmp_path / 'a.png', max_pixels=LIMIT)
    np.testing.assert_array_equal(image, [[[10, 20, 30], [200, 100, 0]]])


def test_one_bit_pictures_become_black_and_white(tmp_path):
    levels = np.array([[0, 255]], np.uint8)
    Image.fromarray(levels).convert('1').save(tmp_path / 'a.png')
    grey = images.read_grey(tmp_path / 'a.png', max_pixels=LIMIT)
    np.testing.assert_array_equal(grey, [[0, 255]])


@pytest.mark.parametrize('read', [images.read_image, images.read_grey])
def test_the_exif_orientation_is_applied_to_image_and_mask_alike(tmp_path, read):
    stored = np.zeros((32, 16), np.uint8)
    stored[:16] = 255  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: white to the right
    Image.fromarray(stored).save(tmp_path / 'a.jpg', exif=exif, quality=95)
    turned = read(tmp_path / 'a.jpg', max_pixels=LIMIT)
    assert turned.shape[:2] == (16, 32)
    assert turned[:, 18:].min() > 200 and turned[:, :14].max() < 50


def test_a_coloured_mask_is_refused(tmp_path):
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[1, 1] = 0, 0, 255
    cv2.imwrite(str(tmp_path / 'a.png'), colours)
    refuse(tmp_path / 'a.png', 'channels differ by 255 levels', images.read_grey)


def test_text_is_not_an_image(tmp_path):
    (tmp_path / 'a.jpg').write_text('hello')
    refuse(tmp_path / 'a.jpg', 'not a JPEG, PNG, BMP or TIFF')


def test_formats_that_are_not_on_the_list_are_refused(tmp_path):
    Image.new('RGB', (4, 4)).save(tmp_path / 'a.gif')
    refuse(tmp_path / 'a.gif', 'not a JPEG, PNG, BMP or TIFF')


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / 'a.png').touch()
    refuse(tmp_path / 'a.png', 'empty file')


def test_a_missing_file_is_named(tmp_path):
    refuse(tmp_path / 'a.png', 'No such file or directory')


def test_a_folder_is_not_a_file(tmp_path):
    refuse(tmp_path, 'not a file')


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / 'a.png')
    refuse(tmp_path / 'a.png', 'not a file')


def test_an_unreadable_file_is_named(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), pixels(4, 4))
    (tmp_path / 'a.png').chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        refuse(tmp_path / 'a.png', 'Permission denied')
    finally:
        os.seteuid(user)


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'bmp', 'tif'])
@pytest.mark.parametrize('share', [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(tmp_path, suffix, share, capfd):
    path = tmp_path / f'a.{suffix}'
    cv2.imwrite(str(path), pixels(64, 64, 3))
    data = path.read_bytes()
    path.write_bytes(data[:int(share * len(data))])
    refuse(path, 'damaged or truncated')
    assert capfd.readouterr() == ('', '')


def test_the_limit_is_checked_before_decoding(tmp_path):
    # A header that announces 12000 x 9000 pixels and no data at all.
    header = b'BM' + (54).to_bytes(4, 'little') + bytes(4) + (54).to_bytes(4, 'little')
    header += b''.join(value.to_bytes(size, 'little') for value, size in (
        (40, 4), (12000, 4), (9000, 4), (1, 2), (24, 2), (0, 4), (0, 4), (0, 4), (0, 4),
        (0, 4), (0, 4)))
    (tmp_path / 'a.bmp').write_bytes(header)
    refuse(tmp_path / 'a.bmp', '12000 x 9000 pixels, limit 50000000',
           max_pixels=50_000_000)
    refuse(tmp_path / 'a.bmp', 'damaged or truncated', max_pixels=12000 * 9000)


def test_the_limit_is_the_largest_size_allowed(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), pixels(10, 20))
    assert images.read_image(tmp_path / 'a.png', max_pixels=200).shape == (10, 20, 3)
    refuse(tmp_path / 'a.png', '20 x 10 pixels, limit 199', max_pixels=199)


def test_32_bit_pictures_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / 'a.tif')
    refuse(tmp_path / 'a.tif', '32 bits a channel')


def test_nothing_is_printed_about_bombs_damage_or_odd_metadata(tmp_path):
    """In a process of its own: pytest swallows warnings."""
    Image.new('1', (20000, 20000)).save(tmp_path / 'bomb.png')
    Image.fromarray(pixels(64, 64)).save(tmp_path / 'short.tif')
    data = (tmp_path / 'short.tif').read_bytes()
    (tmp_path / 'short.tif').write_bytes(data[:50])  # 'Corrupt EXIF data'
    Image.fromarray(pixels(64, 64)).save(tmp_path / 'a.tif', compression='tiff_lzw')
    data = bytearray((tmp_path / 'a.tif').read_bytes())
    data[600:2000] = bytes(1400)
    (tmp_path / 'a.tif').write_bytes(data)
    program = (
        'import sys\n'
        'from jaxmed.data import images\n'
        'from jaxmed.errors import ImageError\n'
        'for path in sys.argv[1:]:\n'
        '    try:\n'
        '        images.read_image(path, max_pixels=10**6)\n'
        '    except ImageError:\n'
        '        pass\n')
    done = subprocess.run(
        [sys.executable, '-W', 'always', '-c', program,
         *(str(tmp_path / name) for name in ('bomb.png', 'short.tif', 'a.tif'))],
        capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_images_are_found_in_order_below_a_folder_without_hidden_ones(tmp_path):
    for name in (
        'b.PNG', 'a.jpg', '.hidden.jpg', 'notes.txt', 'sub/c.tiff', '.git/d.bmp'
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [p.relative_to(tmp_path).as_posix() for p in images.find_images(tmp_path)]
    assert found == ['a.jpg', 'b.PNG', 'sub/c.tiff']


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(
        ImageError, match=r'no images \(.jpg .jpeg .png .bmp .tif .tiff\)'
    ):
        images.find_images(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ImageError, match='nowhere: No such file or directory'):
        images.find_images(tmp_path / 'nowhere')
