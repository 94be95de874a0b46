"""Radiographs of any format: right grey levels, or one line that says what is wrong."""

import struct

import cv2
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image, TiffImagePlugin

from jaxmed.data import radiographs
from jaxmed.errors import ImageError

LIMIT = 10**6
WINDOW = {(0x0028, 0x1050): ('DS', '1000'), (0x0028, 0x1051): ('DS', '500')}
SLOPE = {(0x0028, 0x1052): ('DS', '-24'), (0x0028, 0x1053): ('DS', '2')}


def levels(height, width, largest, dtype=np.uint16):
    return np.linspace(0, largest, height * width).reshape(height, width).astype(dtype)


def read(path, store_px, max_pixels=LIMIT):
    return radiographs.read_radiograph(path, store_px=store_px, max_pixels=max_pixels)


def read_one(path, store_px=32):
    return radiographs.read_one(
        path, case_id='a', store_px=store_px, max_pixels=LIMIT)


def refuse(path, reason, max_pixels=LIMIT):
    """Asserts that `path` is refused in one line with its name and `reason`."""
    with pytest.raises(ImageError) as caught:
        read(path, 16, max_pixels)
    message = str(caught.value)
    assert message.startswith(f'{path}: ') and '\n' not in message
    assert reason in message
    assert 'Roe' not in message and 'MRN' not in message and 'SimpleITK' not in message


def monochrome1(tags):
    return tags | {(0x0028, 0x0004): ('CS', 'MONOCHROME1')}


# --- pictures ---------------------------------------------------------------------


@pytest.mark.parametrize('shape', [(24, 40), (40, 24)])
def test_the_square_in_the_middle_is_kept(tmp_path, save, shape):
    picture = np.zeros(shape, np.uint8)
    picture[8 * (shape[0] > 24):, 8 * (shape[1] > 24):][:24, :24] = levels(24, 24, 255)
    np.testing.assert_array_equal(
        read(save(tmp_path / 'a.png', picture), 24), levels(24, 24, 255))


def test_pixels_are_averaged_by_area(tmp_path, save):
    picture = np.kron([[10, 20], [30, 40]], [[0, 2], [4, 6]]).astype(np.uint8)
    # Means of the four blocks of 2 x 2: 3 times 10, 20, 30, 40.
    np.testing.assert_array_equal(
        read(save(tmp_path / 'a.png', picture), 2), [[30, 60], [90, 120]])


def test_small_pictures_are_enlarged_smoothly(tmp_path, save):
    image = read(save(tmp_path / 'a.png', np.array([[0, 200], [0, 200]], np.uint8)), 8)
    assert image.shape == (8, 8) and image.dtype == np.uint8
    assert np.all(np.diff(image[:, 1:7].astype(int), axis=1) > 0)


@pytest.mark.parametrize('suffix', ['png', 'bmp', 'tif', 'PNG'])
@pytest.mark.parametrize('channels', [1, 3])
def test_lossless_formats_keep_every_level(tmp_path, save, suffix, channels):
    picture = levels(24, 24, 255, np.uint8)
    stored = picture if channels == 1 else np.stack([picture] * 3, -1)
    path = save(tmp_path / f'a picture é.{suffix}', stored)
    np.testing.assert_array_equal(read(path, 24), picture)
    kind = {'png': 'PNG', 'bmp': 'BMP', 'tif': 'TIFF'}[suffix.lower()]
    source = radiographs.SOURCES[read_one(path)['source']]
    assert source == f'{kind} {"grey" if channels == 1 else "colour"}'


def test_colour_becomes_luma(tmp_path, save):
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:, :] = 100, 50, 200
    image = read(save(tmp_path / 'a.png', picture), 4)
    assert np.all(image == round(0.299 * 100 + 0.587 * 50 + 0.114 * 200))


@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
def test_transparency_is_black(tmp_path, mode):
    picture = Image.new(mode, (4, 4), 'white')
    alpha = Image.new('L', (4, 4), 255)
    alpha.paste(0, (0, 0, 2, 4))
    picture.putalpha(alpha)
    picture.save(tmp_path / 'a.png')
    assert read(tmp_path / 'a.png', 4).tolist() == [[0, 0, 255, 255]] * 4


def test_palettes_bits_and_inks_are_looked_up(tmp_path):
    palette = Image.new('P', (2, 2), 1)
    palette.putpalette([10, 10, 10, 200, 200, 200])
    palette.save(tmp_path / 'palette.png')
    assert np.all(read(tmp_path / 'palette.png', 2) == 200)
    Image.new('1', (2, 2), 1).save(tmp_path / 'bits.tif')
    assert np.all(read(tmp_path / 'bits.tif', 2) == 255)
    Image.new('CMYK', (16, 16), (0, 0, 0, 155)).save(tmp_path / 'inks.jpg')
    assert np.all(abs(read(tmp_path / 'inks.jpg', 2).astype(int) - 100) < 4)


@pytest.mark.parametrize('suffix', ['png', 'tif'])
@pytest.mark.parametrize('largest', [4095, 65535])
def test_16_bits_are_scaled_by_their_own_range(tmp_path, save, suffix, largest):
    picture = levels(40, 40, largest)
    image = read(save(tmp_path / f'a.{suffix}', picture), 40).astype(int)
    expected = picture / largest * 255
    assert image.min() == 0 and image.max() == 255
    assert np.abs(image - expected).max() < 1.5  # of 0.1% at either end, and rounding


def test_a_dead_pixel_does_not_make_a_16_bit_picture_dark(tmp_path, save):
    picture = levels(100, 100, 4000)
    picture[50, 50] = 65535
    image = read(save(tmp_path / 'a.png', picture), 100)
    assert abs(np.median(image) - 127.5) < 2 and image[50, 50] == 255


def test_a_flat_16_bit_picture_is_black(tmp_path, save):
    path = save(tmp_path / 'a.png', np.full((8, 8), 900, np.uint16))
    assert not read(path, 8).any()


def test_a_tiff_in_which_0_is_white_is_turned_about(tmp_path):
    picture = levels(20, 20, 4095)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    Image.fromarray(picture).save(tmp_path / 'a.tif', tiffinfo=tags)
    image = read(tmp_path / 'a.tif', 20)
    assert image[0, 0] == 255 and image[-1, -1] == 0


def test_the_exif_orientation_is_applied(tmp_path):
    stored = np.zeros((32, 32), np.uint8)
    stored[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: what is above comes to the right
    Image.fromarray(stored).save(tmp_path / 'a.jpg', exif=exif, quality=95)
    image = read(tmp_path / 'a.jpg', 32)
    assert image[:, 20:].min() > 200 and image[:, :12].max() < 50


def test_a_header_of_30000_pixels_a_side_is_refused_before_decoding(tmp_path):
    header = b'BM' + (54).to_bytes(4, 'little') + bytes(4) + (54).to_bytes(4, 'little')
    header += struct.pack('<IiiHHIIIIII', 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / 'a.bmp').write_bytes(header)
    refuse(tmp_path / 'a.bmp', '30000 x 30000 pixels, limit 1000000')


def test_truncated_and_foreign_files_are_refused(tmp_path, save, drawn):
    path = save(tmp_path / 'a.jpg', drawn(0))
    path.write_bytes(path.read_bytes()[:3000])
    refuse(path, 'damaged or truncated')
    (tmp_path / 'b.png').write_text('hello')
    refuse(tmp_path / 'b.png', 'not a JPEG, PNG, BMP or TIFF')
    (tmp_path / 'c.dcm').write_text('hello')
    refuse(tmp_path / 'c.dcm', 'not a DICOM file')
    (tmp_path / 'd.dcm').touch()
    refuse(tmp_path / 'd.dcm', 'empty file')
    refuse(tmp_path / 'nowhere.dcm', 'No such file or directory')


# --- DICOM ------------------------------------------------------------------------


def test_the_window_is_applied_to_rescaled_values(tmp_path, dicom):
    pixels = np.array([[0, 387], [512, 637], [762, 2047], [511, 511]], np.uint16)
    path = dicom(tmp_path / 'a.dcm', pixels, tags=WINDOW | SLOPE, bits=12)
    # Values 2 x - 24: -24, 750, 1000, 1250, 1500, 4070, 998. The window of 500 around
    # 1000 (PS3.3 C.11.2.1.2): (v - 999.5) / 499 + 0.5 of 255.
    expected = [[0, 0], [128, 255], [255, 255], [127, 127]]
    pixels = radiographs.decode(path, max_pixels=LIMIT).grey
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize('function, expected', [
    ('LINEAR', [64, 128, 191]),  # (v - 999.5) / 499 + 0.5
    ('LINEAR_EXACT', [64, 128, 191]),  # (v - 1000) / 500 + 0.5
    ('SIGMOID', [69, 128, 186]),  # 1 / (1 + exp(-4 (v - 1000) / 500)), at -1, 0, 1
])
def test_the_functions_of_a_window(tmp_path, dicom, function, expected):
    pixels = np.repeat(np.array([[875, 1000, 1125]], np.uint16), 3, 0)
    tags = WINDOW | {(0x0028, 0x1056): ('CS', function)}
    image = read(dicom(tmp_path / 'a.dcm', pixels, tags=tags), 3)
    np.testing.assert_allclose(image[0], expected, atol=1)


@pytest.mark.parametrize('tags', [{}, WINDOW, SLOPE, WINDOW | SLOPE])
@pytest.mark.parametrize('dtype, bits', [
    (np.uint16, 12), (np.uint16, 16), (np.int16, 16), (np.uint8, 8)])
def test_monochrome1_is_the_negative_of_monochrome2(tmp_path, dicom, tags, dtype, bits):
    largest = 250 if bits == 8 else 2000
    pixels = levels(30, 30, largest, np.int32) - (500 if dtype == np.int16 else 0)
    if bits == 8:  # a window in the range of these values
        tags = {key: ('DS', '120') if key[1] in (0x1050, 0x1051) else value
                for key, value in tags.items()}
    pixels = pixels.astype(dtype)
    one, two = (
        read(dicom(tmp_path / f'{name}.dcm', pixels, tags=t, bits=bits), 30)
        for name, t in (('one', monochrome1(tags)), ('two', tags)))
    assert 40 < two.std() and two[0, 0] == 0 and two[-1, -1] == 255
    np.testing.assert_array_equal(one, 255 - two)


def test_without_a_window_the_range_of_the_picture_counts_but_no_padding(
    tmp_path, dicom
):
    pixels = levels(40, 40, 3000, np.int16)
    pixels[:10] = -2000
    tags = {(0x0028, 0x0120): ('SS', struct.pack('<h', -2000))}
    image = read(dicom(tmp_path / 'a.dcm', pixels, tags=tags | SLOPE), 40)
    assert image[:10].max() == image[10, 0] == 0 and image[-1, -1] == 255
    assert abs(int(image[25, 0]) - 127) < 4


def test_colour_captures_become_grey(tmp_path, dicom):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:, :] = 100, 50, 200
    assert np.all(read(dicom(tmp_path / 'rgb.dcm', pixels), 4) == 82)
    pixels[:, :] = 100, 120, 140  # Y, the luma as it is, and two of colour
    tags = {(0x0028, 0x0004): ('CS', 'YBR_FULL')}
    planes = np.moveaxis(pixels, -1, 0).reshape(4, 4, 3)
    planar = {(0x0028, 0x0006): ('US', b'\1\0')}
    path = dicom(tmp_path / 'planes.dcm', planes, tags=tags | planar)
    assert np.all(abs(read(path, 4).astype(int) - 100) < 3)
    ybr = read(dicom(tmp_path / 'ybr.dcm', pixels, tags=tags), 4).astype(int)
    assert np.all(abs(ybr - 100) < 3)
    source = radiographs.SOURCES[read_one(tmp_path / 'rgb.dcm')['source']]
    assert source == 'DICOM colour'


@pytest.mark.parametrize('kind', ['JPEG', 'JPEG2000'])
@pytest.mark.parametrize('dtype', [np.uint16, np.uint8])
def test_compressed_files_are_read(tmp_path, kind, dtype):
    pixels = levels(64, 48, 4095 if dtype == np.uint16 else 255, dtype)
    path = compress(tmp_path / 'a.dcm', pixels, kind)
    image = radiographs.decode(path, max_pixels=LIMIT).grey
    assert np.abs(image - pixels / pixels.max() * 255).max() < 2
    # As a file of MONOCHROME1, by its bytes: what is stored is the same.
    path.write_bytes(path.read_bytes().replace(b'MONOCHROME2', b'MONOCHROME1'))
    negative = radiographs.decode(path, max_pixels=LIMIT).grey
    np.testing.assert_array_equal(negative, 255 - image)


def compress(path, pixels, kind):
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.UseCompressionOn()
    writer.SetCompressor(kind)
    writer.Execute(sitk.GetImageFromArray(pixels))
    assert b'1.2.840.10008.1.2.4' in path.read_bytes()[:1000]
    return path


@pytest.mark.parametrize('kind', ['JPEG', 'JPEG2000'])
def test_what_a_compressed_stream_declares_is_checked_too(tmp_path, kind, capfd):
    path = compress(tmp_path / 'a.dcm', levels(64, 48, 4095), kind)
    data = bytearray(path.read_bytes())
    if kind == 'JPEG':
        at = next(i for i in range(len(data)) if data[i:i + 2] == b'\xff\xc3') + 5
        data[at:at + 4] = struct.pack('>HH', 60000, 60000)
    else:
        at = data.index(b'\xff\x4f\xff\x51') + 8
        data[at:at + 8] = struct.pack('>II', 60000, 60000)
    path.write_bytes(data)
    refuse(path, '60000 x 60000 pixels are coded')
    if kind == 'JPEG':
        data[at - 1:at + 4] = struct.pack('>BHH', 51, 64, 48)
        path.write_bytes(data)
        refuse(path, '1 samples of 51 bits are coded')  # GDCM would crash
    path.write_bytes(data[:at + 20] + bytes(len(data) - at - 20))
    refuse(path, 'damaged or truncated DICOM')
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('syntax', ['', '.1', '.2'])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int16])
def test_all_plain_transfer_syntaxes_are_read(tmp_path, dicom, syntax, dtype):
    pixels = levels(30, 30, 250, np.int32) - (100 if dtype == np.int16 else 0)
    tags = {(0x0028, 0x1050): ('DS', '100'), (0x0028, 0x1051): ('DS', '200'),
            (0x0028, 0x1056): ('CS', 'LINEAR_EXACT')}
    path = dicom(tmp_path / 'a.dcm', pixels.astype(dtype), tags=tags,
                 syntax=f'1.2.840.10008.1.2{syntax}')
    expected = np.clip(pixels / 200 * 255, 0, 255)
    assert np.abs(read(path, 30) - expected).max() <= 0.5


def test_sequences_of_any_length_are_passed_over(tmp_path, dicom):
    def item(value, length=None):
        return struct.pack('<HHI', 0xFFFE, 0xE000, length or len(value)) + value

    def end(number):
        return struct.pack('<HHI', 0xFFFE, number, 0)

    inner = struct.pack('<HH2sH', 0x0028, 0x0010, b'US', 2) + b'\x09\x09'
    endless = 0xFFFFFFFF
    nested = struct.pack('<HH2sHI', 0x0040, 0x0275, b'SQ', 0, endless) + item(
        inner + struct.pack('<HH2sHI', 0x0040, 0x0008, b'SQ', 0, endless)
        + item(inner) + end(0xE0DD) + end(0xE00D), endless) + end(0xE0DD)
    # Unknown elements of undefined length are implicit inside.
    hidden = struct.pack('<HHI', 0x0028, 0x0010, 2) + b'\x09\x09'
    unknown = struct.pack('<HH2sHI', 0x0009, 0x1001, b'UN', 0, endless) + item(
        hidden) + end(0xE0DD)
    tags = {(0x0009, 0x1001): unknown, (0x0027, 0x0275): nested,
            (0x0027, 0x0276): ('SQ', item(inner))}
    path = dicom(tmp_path / 'a.dcm', levels(30, 30, 4095), tags=tags)
    assert radiographs.decode(path, max_pixels=LIMIT).grey.shape == (30, 30)


def test_a_length_beyond_the_file_is_refused_before_anything_is_allocated(
    tmp_path, dicom
):
    bomb = struct.pack('<HH2sHI', 0x0009, 0x1001, b'OB', 0, 0xFFFFFFF0)
    path = dicom(tmp_path / 'a.dcm', levels(8, 8, 99), tags={(0x0009, 0x1001): bomb})
    refuse(path, 'damaged or truncated DICOM')
    deep = struct.pack('<HH2sHIHHI', 0x0009, 0x1001, b'SQ', 0, 0xFFFFFFFF,
                       0xFFFE, 0xE000, 0xFFFFFFFF) * 5000
    path = dicom(tmp_path / 'b.dcm', levels(8, 8, 99), tags={(0x0009, 0x1001): deep})
    refuse(path, 'damaged or truncated DICOM')


def test_an_overlay_in_the_upper_bits_is_no_part_of_the_picture(tmp_path, dicom):
    pixels = levels(30, 30, 4095)
    plain = read(dicom(tmp_path / 'a.dcm', pixels, bits=12), 30)
    pixels[::3] |= 0xF000
    np.testing.assert_array_equal(
        read(dicom(tmp_path / 'b.dcm', pixels, bits=12), 30), plain)


def test_kinds_of_pixels_that_are_not_read_are_named(tmp_path, dicom):
    palette = {(0x0028, 0x0004): ('CS', 'PALETTE COLOR')}
    path = dicom(tmp_path / 'a.dcm', np.ones((8, 8), np.uint8), tags=palette)
    refuse(path, "1 x 8 bits of 'PALETTE COLOR' are not read")
    path = dicom(tmp_path / 'b.dcm', np.ones((8, 8), np.uint32))
    refuse(path, "1 x 32 bits of 'MONOCHROME2' are not read")
    path = dicom(tmp_path / 'c.dcm', np.ones((8, 8), np.uint8),
                 syntax='1.2.840.10008.1.2.1.99')
    refuse(path, "transfer syntax '1.2.840.10008.1.2.1.99' is not read")


def test_several_frames_are_refused(tmp_path, dicom):
    tags = {(0x0028, 0x0008): ('IS', '3'), (0x0028, 0x0010): ('US', b'\x08\0')}
    path = dicom(tmp_path / 'a.dcm', np.zeros((24, 8), np.uint16), tags=tags)
    refuse(path, '3 frames; only a single one can be read')


def test_dicom_limits_are_checked_before_decoding(tmp_path, dicom):
    sides = {(0x0028, number): ('US', struct.pack('<H', 30000))
             for number in (0x10, 0x11)}
    path = dicom(tmp_path / 'a.dcm', np.zeros((8, 8), np.uint16), tags=sides)
    refuse(path, '30000 x 30000 pixels, limit 1000000')


def test_pixels_that_are_missing_are_not_read_from_elsewhere(tmp_path, dicom):
    rows = {(0x0028, 0x0010): ('US', struct.pack('<H', 800))}
    path = dicom(tmp_path / 'a.dcm', np.ones((8, 64), np.uint16), tags=rows)
    refuse(path, 'truncated')
    path = dicom(tmp_path / 'b.dcm', np.ones((100, 64), np.uint16))
    path.write_bytes(path.read_bytes()[:-5000])
    refuse(path, 'damaged or truncated DICOM')


def test_dicom_files_without_a_picture_are_refused(tmp_path, dicom, capfd):
    nothing = {(0x7FE0, 0x0010): None, (0x0028, 0x0010): None}
    path = dicom(tmp_path / 'a.dcm', np.ones((8, 8), np.uint16), tags=nothing)
    refuse(path, 'without a picture')
    assert capfd.readouterr() == ('', '')


def test_a_record_keeps_neither_name_nor_id_of_a_patient(tmp_path, dicom, drawn):
    tags = {(0x0018, 0x5101): ('CS', 'AP'),
            (0x0010, 0x0020): ('LO', b'MRN-\xe9\xff')}
    record = read_one(dicom(tmp_path / 'a.dcm', drawn(0), tags=tags))
    assert 'Roe' not in repr(record) and 'MRN' not in repr(record)
    assert radiographs.VIEWS[record['view']] == 'AP'
    assert radiographs.SOURCES[record['source']] == 'DICOM grey'
    assert record['oddities'] == ''
    ids = [
        radiographs.decode(
            dicom(tmp_path / 'b.dcm', drawn(0), tags={(0x0010, 0x0020): ('LO', name)}),
            max_pixels=LIMIT).patient
        for name in ('one', 'one ', 'two', '', 'ANONYMOUS')]
    assert ids[0] == ids[1] != ids[2] and ids[3] == ids[4] == ''
    assert len(ids[0]) == 16 and int(ids[0], 16)


# --- what to predict on -----------------------------------------------------------


def test_pictures_are_found_with_dicom_files_and_without_hidden_ones_and_masks(
    tmp_path, save, dicom, drawn
):
    picture = drawn(0, 32)
    for name in ('b.PNG', 'a.jpg', '.hidden.png', 'ein Röntgenbild.TIF',
                 'COVID/images/x.png', 'COVID/masks/x.png', 'masks/y.png'):
        save(tmp_path / name, picture)
    for name in ('c.dcm', 'd.DCM', 'e', '1.2.840.10008', 'DICOMDIR', 'f.bak'):
        dicom(tmp_path / name, picture)
    for name in ('Thumbs.db', '.DS_Store', 'notes.txt', 'README'):
        (tmp_path / name).write_text('no picture at all' * 20)
    found = radiographs.find_unlabelled(tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path, _ in found) == [
        '1.2.840.10008', 'COVID/images/x.png', 'a.jpg', 'b.PNG', 'c.dcm', 'd.DCM', 'e',
        'ein Röntgenbild.TIF', 'masks/y.png']
    assert len({case for _, case in found}) == len(found)
    for path, case in found:
        record = radiographs.read_one(path, case_id=case, store_px=32, max_pixels=LIMIT)
        np.testing.assert_allclose(
            record['inputs'][..., 0].astype(int), picture, atol=40)


def test_one_file_is_taken_as_it_is_and_an_empty_folder_is_named(tmp_path, save, drawn):
    path = save(tmp_path / 'masks' / 'a.png', drawn(0, 32))
    assert radiographs.find_unlabelled(path) == [(path, 'a')]
    (tmp_path / 'masks' / 'images').mkdir()
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ImageError, match=r'empty: no images \(.*\.dcm'):
        radiographs.find_unlabelled(tmp_path / 'empty')
    (tmp_path / 'images').mkdir()
    with pytest.raises(ImageError, match='no pictures but masks'):
        radiographs.find_unlabelled(tmp_path)


def test_pictures_of_one_name_are_told_apart(tmp_path, save, drawn):
    for name in ('a.jpg', 'a.png', 'b.png'):
        save(tmp_path / name, drawn(0, 32))
    cases = [case for _, case in radiographs.find_unlabelled(tmp_path)]
    assert cases == ['a.jpg', 'a.png', 'b.png']


def test_a_record_has_the_fields_of_the_contract(tmp_path, save, drawn):
    picture = drawn(0, 64)
    grey = read_one(save(tmp_path / 'a.png', picture), 48)
    assert grey['inputs'].shape == (48, 48, 1) and grey['inputs'].dtype == np.uint8
    assert grey['size_hw'].tolist() == [64, 64] and grey['size_hw'].dtype == np.int32
    assert grey['source'].dtype == grey['view'].dtype == np.int8
    assert grey['source'].shape == grey['view'].shape == ()
    assert grey['example_id'] == grey['case_id'] == 'a' and 'targets' not in grey
    assert grey['patient_id'] == grey['content_id'] and len(grey['content_id']) == 16
    # The same levels in three channels are the same picture.
    colour = read_one(save(tmp_path / 'b.bmp', np.stack([picture] * 3, -1)))
    assert colour['content_id'] == grey['content_id']


# --- what is no radiograph --------------------------------------------------------


def text_page():
    page = np.full((1200, 900), 255, np.uint8)
    for row in range(40):
        cv2.putText(page, 'Impression: no acute cardiopulmonary disease, 1234567890',
                    (40, 50 + 28 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 0, 2)
    return page


@pytest.mark.parametrize('picture, phrase', [
    (np.full((300, 300), 90, np.uint8), 'hardly any contrast'),
    (np.random.default_rng(0).integers(0, 256, (100, 400), np.uint8), 'a strip of'),
    (np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8), 'only 20 x 20'),
    (np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8), 'colours'),
    (np.kron(np.eye(8, dtype=np.uint8) * 255, np.ones((40, 40), np.uint8)),
     'black and white'),
    (text_page(), 'one grey level'),
])
def test_what_is_clearly_no_radiograph_is_said(picture, phrase):
    assert any(phrase in words for words in radiographs.oddities(picture))


def test_a_colour_map_is_colourful_and_a_tint_is_not(drawn):
    picture = drawn(1)
    jet = cv2.applyColorMap(picture, cv2.COLORMAP_JET)
    assert radiographs.oddities(jet) == ['colours']
    blue = np.stack([picture * 0.85, picture * 0.95, picture], -1).astype(np.uint8)
    assert radiographs.oddities(blue) == radiographs.oddities(picture) == []
    assert radiographs.oddities(picture[..., None]) == []


def test_another_modality_is_said(tmp_path, dicom, drawn):
    tags = {(0x0008, 0x0060): ('CS', 'MR')}
    record = read_one(dicom(tmp_path / 'a.dcm', drawn(0), tags=tags))
    assert record['oddities'] == 'DICOM of modality MR'


def test_no_real_radiograph_is_strange_and_all_smears_are(sample_data):
    def strange(folder):
        found = radiographs.find_unlabelled(sample_data / folder)
        pictures = [radiographs.decode(path, max_pixels=10**7) for path, _ in found]
        return [bool(picture.oddities) for picture in pictures]

    assert strange('cxr/covid_chestxray').count(True) == 0
    assert strange('cxr/three_class').count(True) == 0
    assert all(strange('wbc/test'))


def test_a_real_ct_slice_is_read_and_named(sample_data):
    path = sorted((sample_data / 'ct/chest_dicom').glob('*.dcm'))[0]
    record = read_one(path, 64)
    assert 'DICOM of modality CT' in record['oddities']
    assert record['inputs'].std() > 20
