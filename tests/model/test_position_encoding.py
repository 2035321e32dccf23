"""The sine position encoding, number by number."""

import math

import pytest

from combo_avs.model.position_encoding import sine_position_encoding


@pytest.mark.parametrize(("height", "width", "channels"), [(3, 5, 8), (1, 1, 4), (28, 2, 12)])
def test_position_encoding_is_the_published_formula(height: int, width: int, channels: int) -> None:
    found = sine_position_encoding(height, width, channels)
    half = channels // 2
    assert found.shape == (channels, height, width)
    for c in range(channels):
        wavelength = 10000 ** (2 * (c % half // 2) / half)
        for y in range(height):
            for x in range(width):
                place = (y + 1) / (height + 1e-6) if c < half else (x + 1) / (width + 1e-6)
                angle = 2 * math.pi * place / wavelength
                expected = math.sin(angle) if c % half % 2 == 0 else math.cos(angle)
                assert found[c, y, x].item() == pytest.approx(expected, abs=2e-6)


def test_an_odd_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="5 channels cannot be halved"):
        sine_position_encoding(2, 2, 5)
