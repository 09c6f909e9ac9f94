"""Stored pixels come back exactly, compressed by other programs or not; what cannot be given exactly is an error."""

import datetime as dt
import shutil
import subprocess
import warnings

import numpy as np
import pytest

import qatrack_ext
from conftest import need

ACQUIRED = dt.datetime(2026, 11, 20, 7, 5)
TYPES = ["uint8", "uint16", "int16"]


def picture(kind):
    """A step, a slope, noise over the whole range and the type's limits; not square."""
    limits = np.iinfo(kind)
    pixels = np.random.default_rng(1).integers(limits.min, limits.max, (48, 50), dtype=kind, endpoint=True)
    pixels[:16] = limits.max // 3
    pixels[16:24] = np.arange(50)
    pixels[24, :2] = limits.min, limits.max
    return pixels


@pytest.fixture
def file(patient, aria, node, request):
    """A filed image, and the pixels in it."""
    pixels = picture(request.param)

    def change(image):
        bits = 8 * pixels.itemsize
        image.Rows, image.Columns = pixels.shape
        image.BitsAllocated = image.BitsStored = bits
        image.HighBit, image.PixelRepresentation = bits - 1, int(pixels.dtype.kind == "i")
        image.PixelData = pixels.tobytes()

    patient.session(patient.plan("WL_10MV"), ACQUIRED, [(0, 0, 0)], change=change)
    aria.load()
    node.write(aria)
    series = qatrack_ext.series("QA_TB_WL", "WL_10MV")
    assert exactly(series, pixels)
    return series, pixels


def exactly(series, pixels):
    found = series.image(0)
    return found.dtype == pixels.dtype and np.array_equal(found, pixels)


@pytest.mark.parametrize("file", TYPES, indirect=True)
def test_rle_by_pydicom_comes_back_exactly(file):
    import pydicom

    series, pixels = file
    rewritten(series.files[0], lambda data: data.compress(pydicom.uid.RLELossless))
    assert exactly(series, pixels)
    cut_is_malformed(series)


def rewritten(file, change):
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generator's labels are longer than their VR allows
        data = pydicom.dcmread(str(file))
        change(data)
        data.save_as(str(file))


def cut_is_malformed(series):
    """Shortens the compressed frame in its well-formed item."""
    from pydicom.encaps import encapsulate, generate_frames

    def cut(data):
        frame = next(generate_frames(data.PixelData, number_of_frames=1))
        data.PixelData = encapsulate([frame[: len(frame) // 2]])

    rewritten(series.files[0], cut)
    with pytest.raises(qatrack_ext.MalformedError, match="RLE|JPEG") as caught:
        series.image(0)
    assert caught.value.path == str(series.files[0])


@pytest.mark.parametrize("file", TYPES, indirect=True)
@pytest.mark.parametrize("options", [["+e1"], ["+el", "+sv", "1"], ["+el", "+sv", "7"]], ids=" ".join)
def test_jpeg_lossless_by_dcmtk_comes_back_exactly(file, options, tmp_path):
    series, pixels = file
    by_dcmcjpeg(series.files[0], options, tmp_path)
    assert exactly(series, pixels)
    cut_is_malformed(series)


def by_dcmcjpeg(file, options, tmp_path):
    need(shutil.which("dcmcjpeg"), "DCMTK's dcmcjpeg")
    target = tmp_path / "jpeg.dcm"
    done = subprocess.run(["dcmcjpeg"] + options + [str(file), str(target)], stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
    shutil.copyfile(str(target), str(file))


@pytest.mark.parametrize("file", ["uint8"], indirect=True)
def test_what_cannot_be_given_exactly_is_an_error_that_names_the_transfer_syntax(file, tmp_path):
    series, _ = file
    by_dcmcjpeg(series.files[0], ["+eb"], tmp_path)
    for ask in (lambda: series.images, lambda: series.image(0)):
        with pytest.raises(qatrack_ext.UnsupportedError, match="1.2.840.10008.1.2.4.50") as caught:
            ask()
        assert caught.value.path == str(series.files[0])
