"""Paints flowers: five kinds told apart by their shape, in colours that they share.

Nothing here is copied from a photo, so the pictures can be given away with the repository. A seed decides
every stroke; the colours of all kinds overlap, so a model that only counts yellow pixels does not get far.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]

#: Drawn at twice the size and averaged down: Pillow's polygons have no smooth edges of their own.
OVERSAMPLING = 2

WHITE, CREAM, YELLOW, GOLD = (244, 243, 238), (250, 232, 190), (250, 216, 48), (245, 180, 28)
ORANGE, RED, PINK, PURPLE = (238, 118, 44), (204, 32, 52), (240, 140, 172), (142, 76, 168)
GREEN, BROWN = (74, 134, 56), (88, 54, 28)

#: What each kind may be coloured, likeliest first; the weights keep the pictures plausible to people.
COLOURS: dict[str, tuple[tuple[Colour, float], ...]] = {
    "daisy": ((WHITE, 0.62), (PINK, 0.14), (YELLOW, 0.14), (PURPLE, 0.1)),
    "dandelion": ((YELLOW, 0.6), (GOLD, 0.3), (WHITE, 0.1)),
    "roses": ((RED, 0.36), (PINK, 0.24), (WHITE, 0.12), (YELLOW, 0.1), (CREAM, 0.1), (ORANGE, 0.08)),
    "sunflowers": ((GOLD, 0.5), (YELLOW, 0.36), (ORANGE, 0.1), (RED, 0.04)),
    "tulips": ((RED, 0.26), (PINK, 0.2), (YELLOW, 0.18), (PURPLE, 0.14), (ORANGE, 0.12), (WHITE, 0.1)),
}

#: Half a petal's outline from its base (0) to its tip (1): how far along, and how wide there.
ALONG = np.array([0.0, 0.12, 0.28, 0.45, 0.62, 0.77, 0.88, 0.96, 1.0])
ROUND = np.array([0.22, 0.45, 0.68, 0.86, 0.98, 1.0, 0.88, 0.55, 0.0])
POINTED = np.array([0.35, 0.62, 0.88, 1.0, 0.94, 0.74, 0.46, 0.18, 0.0])
STRAP = np.array([0.3, 0.5, 0.7, 0.85, 0.95, 1.0, 1.0, 0.9, 0.62])
BROAD = np.array([0.45, 0.75, 0.95, 1.0, 0.99, 0.95, 0.86, 0.62, 0.3])
CUP = np.array([0.4, 0.76, 0.96, 1.0, 0.94, 0.78, 0.52, 0.22, 0.0])

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


@dataclasses.dataclass(frozen=True)
class Level:
    """How hard the pictures are to tell apart; radii and lengths as fractions of the picture's side."""

    radius: tuple[float, float]
    flowers: tuple[float, float, float]
    clutter: tuple[int, int]
    occluders: tuple[int, int]
    noise: tuple[float, float]
    blurred: float


#: One large flower in the middle: a small network from scratch learns it in a minute.
EASY = Level((0.31, 0.44), (1.0, 0.0, 0.0), (4, 12), (0, 0), (1.0, 5.0), 0.15)

#: One to three flowers of any size, behind blades of grass, in bad light.
HARD = Level((0.2, 0.42), (0.6, 0.25, 0.15), (10, 28), (0, 5), (2.0, 10.0), 0.4)

LEVELS = {"easy": EASY, "hard": HARD}


@dataclasses.dataclass(frozen=True)
class Brush:
    """Where one flower is painted: its centre as a complex number, radius in pixels, and the view onto it."""

    canvas: ImageDraw.ImageDraw
    chance: random.Random
    centre: complex
    radius: float
    side: int
    squash: float
    turn: float

    def fill(self, outline: npt.NDArray[np.complex128], colour: Colour) -> None:
        points = np.stack([outline.real, outline.imag], axis=-1).ravel().tolist()
        self.canvas.polygon(points, fill=colour)

    def seen(self, shape: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
        """A shape that lies flat in the flower, around 0, as seen from the side and placed in the picture."""
        tilted = shape.real + 1j * shape.imag * self.squash
        return tilted * complex(math.cos(self.turn), math.sin(self.turn)) + self.centre


@dataclasses.dataclass(frozen=True)
class Petal:
    """One petal: from `start` to `reach` pixels off the flower's centre, `width` pixels at its widest."""

    start: float
    reach: float
    width: float
    profile: npt.NDArray[Any]


def paint(kind: str, seed: str, *, level: Level = EASY, side: int = 128) -> Image.Image:
    """One picture of `kind`, RGB, `side` x `side` pixels; the same arguments give the same picture."""
    chance = random.Random(seed)
    noise = np.random.default_rng(chance.getrandbits(64))
    large = side * OVERSAMPLING
    image = _background(chance, noise, large, level)
    canvas = ImageDraw.Draw(image)
    count = chance.choices((1, 2, 3), level.flowers)[0]
    for _ in range(count):
        FLOWERS[kind](_brush(canvas, chance, large, level, count), _pick(chance, COLOURS[kind]))
    for _ in range(chance.randint(*level.occluders)):
        _blade(canvas, chance, large, _vary(chance, GREEN, 30))
    return _photograph(image.resize((side, side), Image.Resampling.BOX), chance, noise, level)


def _brush(canvas: ImageDraw.ImageDraw, chance: random.Random, side: int, level: Level, count: int) -> Brush:
    radius = chance.uniform(*level.radius) * side / (1 + 0.4 * (count - 1))
    spread = 0.05 if count == 1 else 0.2
    centre = complex(*(side * (0.5 + max(-0.3, min(0.3, chance.gauss(0, spread)))) for _ in range(2)))
    return Brush(canvas, chance, centre, radius, side, chance.uniform(0.7, 1.0), chance.uniform(0, math.pi))


# The five kinds. What tells them apart: long separate petals around a small disc; a dense ball of thin straps
# or a puff of seeds; a spiral of broad petals; pointed petals around a large dark disc; a cup from the side.


def _daisy(brush: Brush, colour: Colour) -> None:
    chance, radius = brush.chance, brush.radius
    if chance.random() < 0.7:
        _stem(brush, leaves=1)
    count = chance.randint(12, 20)
    width = radius * 2 * math.pi / count * chance.uniform(0.5, 0.68)
    for layer in range(chance.choice((1, 2))):
        petal = Petal(radius * 0.14, radius * (1 - 0.12 * layer), width, ROUND)
        _ring(brush, count, petal, colour)
    _disc(brush, radius * chance.uniform(0.2, 0.28), _vary(chance, GOLD, 16), seeds=34)


def _dandelion(brush: Brush, colour: Colour) -> None:
    chance, radius = brush.chance, brush.radius
    _stem(brush, leaves=chance.choice((0, 1)))
    if colour == WHITE or chance.random() < 0.2:
        _seed_head(brush)
        return
    for layer in range(5):
        reach = radius * (0.98 - 0.17 * layer)
        shade = _times(colour, 0.8 + 0.07 * layer)
        _ring(brush, 34 - 4 * layer, Petal(0, reach, radius * 0.1, STRAP), shade, ragged=0.24)


def _seed_head(brush: Brush) -> None:
    chance, radius = brush.chance, brush.radius
    puff = _vary(chance, (232, 232, 226), 12)
    for index in range(chance.randint(60, 80)):
        reach = radius * math.sqrt((index + 1) / 80) * chance.uniform(0.9, 1.04)
        way = complex(math.cos(index * GOLDEN_ANGLE), math.sin(index * GOLDEN_ANGLE))
        tip = brush.centre + way * reach
        _line(brush.canvas, brush.centre + way * radius * 0.1, tip, _times(puff, 0.72), 1)
        for bend in (-0.9, -0.45, 0.0, 0.45, 0.9):
            hair = way * complex(math.cos(bend), math.sin(bend)) * radius * 0.15
            _line(brush.canvas, tip, tip + hair, puff, 1)
    _disc(brush, radius * 0.13, _vary(chance, (126, 112, 78), 10), seeds=10)


def _rose(brush: Brush, colour: Colour) -> None:
    chance, radius = brush.chance, brush.radius
    if chance.random() < 0.8:
        _stem(brush, leaves=2)
    rings = ((5, 0.5, 1.0, 0.8), (5, 0.3, 0.8, 0.88), (4, 0.12, 0.6, 0.96), (3, 0.0, 0.42, 1.04))
    for count, start, reach, light in rings:
        width = radius * reach * 1.25
        petal = Petal(radius * start * 0.4, radius * reach, width, BROAD)
        _ring(brush, count, petal, _times(colour, light))
    for turn in range(3):
        reach = radius * (0.3 - 0.085 * turn)
        begin = chance.uniform(0, 360)
        box = [
            brush.centre.real - reach,
            brush.centre.imag - reach,
            brush.centre.real + reach,
            brush.centre.imag + reach,
        ]
        brush.canvas.arc(box, begin, begin + 260, fill=_times(colour, 0.58), width=max(1, round(radius * 0.045)))


def _sunflower(brush: Brush, colour: Colour) -> None:
    chance, radius = brush.chance, brush.radius
    if chance.random() < 0.8:
        _stem(brush, leaves=2)
    count = chance.randint(16, 24)
    for layer in range(2):
        width = radius * 2 * math.pi / count * chance.uniform(0.78, 0.95)
        shade = _times(colour, 0.84 + 0.16 * layer)
        petal = Petal(radius * 0.32, radius * (1 - 0.1 * layer), width, POINTED)
        _ring(brush, count, petal, shade)
    dark = _vary(chance, chance.choice((BROWN, (60, 38, 22), (112, 78, 34))), 10)
    _disc(brush, radius * chance.uniform(0.38, 0.5), dark, seeds=90)


def _tulip(brush: Brush, colour: Colour) -> None:
    chance, radius = brush.chance, brush.radius
    upright = dataclasses.replace(brush, squash=1.0, turn=chance.gauss(0, 0.12), centre=brush.centre + 0.5j * radius)
    _stem(upright, leaves=chance.randint(1, 2), long_leaves=True)
    opening = chance.uniform(0.16, 0.34)
    petals = (
        (-0.5, 1.42, 0.72, 0.7),
        (0.5, 1.42, 0.72, 0.72),
        (-1.0, 1.5, 0.72, 0.9),
        (1.0, 1.5, 0.72, 0.82),
        (0.0, 1.36, 0.86, 1.04),
    )
    for aside, length, width, light in petals:
        lean = -math.pi / 2 + aside * opening
        petal = Petal(0, radius * length, radius * width, CUP)
        _petal(upright, lean, petal, _times(_vary(chance, colour, 6), light))


FLOWERS: dict[str, Callable[[Brush, Colour], None]] = {
    "daisy": _daisy,
    "dandelion": _dandelion,
    "roses": _rose,
    "sunflowers": _sunflower,
    "tulips": _tulip,
}


def _ring(brush: Brush, count: int, petal: Petal, colour: Colour, *, ragged: float = 0.1) -> None:
    """`count` petals all around, irregular enough not to look like a cog."""
    chance = brush.chance
    begin = chance.uniform(0, 2 * math.pi)
    for index in range(count):
        angle = begin + 2 * math.pi * index / count + chance.gauss(0, 0.35 / count)
        shade = _times(_vary(chance, colour, 7), chance.uniform(0.88, 1.08))
        shorter = dataclasses.replace(petal, reach=petal.reach * chance.uniform(1 - ragged, 1))
        _petal(brush, angle, shorter, shade)


def _petal(brush: Brush, angle: float, petal: Petal, colour: Colour) -> None:
    """A dark rim, the petal inside it, and a lighter middle: enough for it to stand off its neighbours."""
    heading = complex(math.cos(angle), math.sin(angle))
    length = petal.reach - petal.start
    for shorter, narrower, light in ((1.0, 1.0, 0.74), (0.95, 0.84, 1.0), (0.8, 0.4, 1.09)):
        along = petal.start + length * shorter * ALONG
        aside = 0.5 * petal.width * narrower * petal.profile
        outline = np.concatenate([along + 1j * aside, (along - 1j * aside)[::-1]]) * heading
        brush.fill(brush.seen(outline), _times(colour, light))


def _disc(brush: Brush, radius: float, colour: Colour, *, seeds: int) -> None:
    circle = radius * np.exp(1j * np.linspace(0, 2 * math.pi, 24))
    brush.fill(brush.seen(circle), _times(colour, 0.78))
    brush.fill(brush.seen(circle * 0.88), colour)
    order = np.arange(seeds)
    # Real flower heads place their seeds by the golden angle.
    spots = brush.seen(radius * 0.94 * np.sqrt((order + 0.5) / seeds) * np.exp(1j * order * GOLDEN_ANGLE))
    size = max(1.0, radius * 0.07)
    for spot in spots:
        light = brush.chance.choice((0.66, 1.0, 1.3))
        box = [spot.real - size, spot.imag - size, spot.real + size, spot.imag + size]
        brush.canvas.ellipse(box, fill=_times(colour, light))


def _stem(brush: Brush, *, leaves: int, long_leaves: bool = False) -> None:
    chance, side = brush.chance, brush.side
    green = _vary(chance, GREEN, 18)
    foot = complex(brush.centre.real + chance.uniform(-0.18, 0.18) * side, side * 1.02)
    bend = (brush.centre + foot) / 2 + chance.uniform(-0.06, 0.06) * side
    way = np.linspace(0, 1, 9)
    curve = (1 - way) ** 2 * brush.centre + 2 * way * (1 - way) * bend + way**2 * foot
    points = [(point.real, point.imag) for point in curve]
    width = max(2, round(brush.radius * 0.13))
    brush.canvas.line(points, fill=_times(green, 0.78), width=width, joint="curve")
    brush.canvas.line(points, fill=green, width=max(1, width // 2), joint="curve")
    for _ in range(leaves):
        place = chance.uniform(0.75, 1.0) if long_leaves else chance.uniform(0.4, 0.85)
        root = complex(np.interp(place, way, curve.real), np.interp(place, way, curve.imag))
        lean = chance.choice((-1, 1)) * (chance.uniform(0.15, 0.4) if long_leaves else chance.uniform(0.5, 1.1))
        length = chance.uniform(0.4, 0.6) * side if long_leaves else brush.radius * chance.uniform(0.4, 0.65)
        leaf = dataclasses.replace(brush, centre=root, squash=1.0, turn=0.0)
        shade = _times(green, chance.uniform(0.8, 1.15))
        petal = Petal(0, length, length * chance.uniform(0.2, 0.32), POINTED)
        _petal(leaf, -math.pi / 2 + lean, petal, shade)


#: Far and near colour of a background: meadow, sky over grass, soil, shade, wall, dusk.
BACKGROUNDS: tuple[tuple[Colour, Colour], ...] = (
    ((150, 186, 108), (58, 112, 50)),
    ((150, 196, 236), (96, 150, 76)),
    ((146, 122, 92), (84, 66, 46)),
    ((66, 92, 66), (26, 40, 30)),
    ((228, 224, 214), (190, 184, 170)),
    ((196, 176, 210), (70, 84, 92)),
)


def _background(chance: random.Random, noise: np.random.Generator, side: int, level: Level) -> Image.Image:
    """A blurred meadow, wall or sky: painted at a quarter of the size, which is blur for nothing."""
    small = side // 4
    far, near = (np.array(_vary(chance, colour, 20), dtype=float) for colour in chance.choice(BACKGROUNDS))
    way = np.linspace(0, 1, small)[:, None, None]
    clouds = Image.fromarray(noise.normal(128, 26, (7, 7)).clip(0, 255).astype(np.uint8))
    light = np.asarray(clouds.resize((small, small), Image.Resampling.BICUBIC), dtype=float)[:, :, None] - 128
    image = Image.fromarray((far * (1 - way) + near * way + light).clip(0, 255).astype(np.uint8))
    canvas = ImageDraw.Draw(image)
    for _ in range(chance.randint(*level.clutter)):
        colour = _vary(chance, chance.choice((GREEN, (120, 150, 76), BROWN, YELLOW, PINK, WHITE)), 24)
        if chance.random() < 0.5:
            _blade(canvas, chance, small, colour)
        else:
            size, x, y = (
                chance.uniform(0.02, 0.08) * small,
                chance.uniform(0, small),
                chance.uniform(0, small),
            )
            canvas.ellipse([x - size, y - size, x + size, y + size], fill=colour)
    image = image.filter(ImageFilter.GaussianBlur(chance.uniform(0.8, 2.0)))
    return image.resize((side, side), Image.Resampling.BICUBIC)


def _blade(canvas: ImageDraw.ImageDraw, chance: random.Random, side: int, colour: Colour) -> None:
    root = complex(chance.uniform(0, side), chance.uniform(0.2 * side, side))
    lean = -math.pi / 2 + chance.gauss(0, 0.5)
    tip = root + complex(math.cos(lean), math.sin(lean)) * chance.uniform(0.2, 0.6) * side
    _line(canvas, root, tip, colour, max(1, round(chance.uniform(0.008, 0.03) * side)))


def _photograph(image: Image.Image, chance: random.Random, noise: np.random.Generator, level: Level) -> Image.Image:
    """What a camera does to it: focus, exposure, colour of the light, contrast, grain."""
    if chance.random() < level.blurred:
        image = image.filter(ImageFilter.GaussianBlur(chance.uniform(0.4, 1.0) * image.width / 128))
    light = chance.uniform(0.78, 1.14) * np.array([chance.uniform(0.94, 1.06) for _ in range(3)])
    contrast = chance.uniform(0.85, 1.12)
    pixels = np.asarray(image, dtype=np.float32) * light.astype(np.float32)
    pixels = (pixels - 128) * contrast + 128
    pixels += noise.standard_normal(pixels.shape, dtype=np.float32) * chance.uniform(*level.noise)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _line(canvas: ImageDraw.ImageDraw, start: complex, end: complex, colour: Colour, width: int) -> None:
    canvas.line([start.real, start.imag, end.real, end.imag], fill=colour, width=width)


def _pick(chance: random.Random, weighted: Sequence[tuple[Colour, float]]) -> Colour:
    colours, weights = zip(*weighted, strict=True)
    picked: Colour = chance.choices(colours, weights)[0]
    return picked


def _vary(chance: random.Random, colour: Colour, by: float) -> Colour:
    return tuple(max(0, min(255, round(value + chance.uniform(-by, by)))) for value in colour)  # type: ignore[return-value]  # three in, three out


def _times(colour: Colour, light: float) -> Colour:
    return tuple(max(0, min(255, round(value * light))) for value in colour)  # type: ignore[return-value]  # three in, three out
