"""What the recipe does to a network, and that both definitions of a picture's pixels are one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dualdeploy.images import decode_rgb, resize_bilinear
from trainer.failures import DivergedTraining, UnusableWeights

pytestmark = [
    pytest.mark.slow,
    # Keras 3.15 reads its variables through an __array__ that numpy 2 finds old-fashioned; we cannot avoid it.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

SIZE = 32


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Sixty-four pictures with a margin to crop; class 1 is bright at the top, class 0 at the bottom."""
    noise = np.random.default_rng(0)
    labels = np.arange(64, dtype=np.int32) % 2
    images = noise.integers(0, 80, (64, 36, 36, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        half = slice(0, 18) if label else slice(18, 36)
        image[half] += 120
    return images, labels


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a base without its top, as a published weights file has them."""
    import keras

    keras.utils.set_random_seed(11)
    base = keras.applications.MobileNetV3Small(
        include_top=False, weights=None, input_shape=(SIZE, SIZE, 3), pooling="avg"
    )
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v3_small.weights.h5"
    base.save_weights(path)
    return path


@pytest.fixture(autouse=True)
def _fresh_session() -> Iterator[None]:
    import keras

    yield
    keras.backend.clear_session()


def fit(network: Any, pictures: tuple[np.ndarray, np.ndarray], **changes: Any) -> list[Any]:
    from trainer import recipe

    reports: list[Any] = []
    images, labels = pictures
    settings = {"epochs": 2, "learning_rate": 0.003} | changes
    recipe.train(
        network,
        images,
        labels,
        plan=recipe.phases(network, **settings),
        image_size=SIZE,
        batch_size=16,
        seed=0,
        after_step=lambda: None,
        after_epoch=reports.append,
    )
    return reports


def snapshot(variables: list[Any]) -> list[np.ndarray]:
    return [variable.value.numpy() for variable in variables]


def changed(before: list[np.ndarray], variables: list[Any]) -> list[bool]:
    return [not np.array_equal(old, new) for old, new in zip(before, snapshot(variables), strict=True)]


def test_from_scratch_every_weight_learns_and_so_do_the_batch_statistics(pictures: Any) -> None:
    import keras

    from trainer import architectures

    keras.utils.set_random_seed(0)
    network = architectures.build("mobilenet_v3_small", classes=2, image_size=SIZE, weights="none")
    before = snapshot(network.model.trainable_variables)
    statistics = snapshot(network.model.non_trainable_variables)
    reports = fit(network, pictures, epochs=4)
    assert np.mean(changed(before, network.model.trainable_variables)) > 0.95
    assert all(changed(statistics, network.model.non_trainable_variables))
    assert reports[-1].loss < reports[0].loss
    assert [report.epoch for report in reports] == [1, 2, 3, 4]


def test_from_pretrained_weights_the_head_learns_first_and_then_only_the_top_of_the_base(
    pictures: Any, weights_file: Path
) -> None:
    from trainer import architectures

    network = architectures.build("mobilenet_v3_small", classes=2, image_size=SIZE, weights=weights_file)
    published = snapshot(network.base.weights)
    assert [report.phase for report in fit(network, pictures, epochs=1)] == ["head"]
    assert not any(changed(published, network.base.weights)), "the head alone learns in the first phase"

    statistics = snapshot(network.model.non_trainable_variables)
    assert [report.phase for report in fit(network, pictures, epochs=3)] == ["head", "fine-tune", "fine-tune"]
    moved = changed(published, network.base.weights)
    assert not any(moved[:40]), "the first layers keep what they were published with"
    assert any(moved[-20:]), "the last layers are fine-tuned"
    assert not any(changed(statistics, network.model.non_trainable_variables)), "batch statistics stay"


def test_weights_start_from_the_file_not_from_chance(weights_file: Path) -> None:
    import keras

    from trainer import architectures

    keras.utils.set_random_seed(999)
    network = architectures.build("mobilenet_v3_small", classes=2, image_size=SIZE, weights=weights_file)
    original = keras.applications.MobileNetV3Small(
        include_top=False, weights=None, input_shape=(SIZE, SIZE, 3), pooling="avg"
    )
    original.load_weights(weights_file)
    assert not any(changed(snapshot(original.weights), network.base.weights))


@pytest.mark.parametrize("content", ["another architecture", "no weights at all"])
def test_weights_that_do_not_fit_are_refused_by_name(content: str, weights_file: Path, tmp_path: Path) -> None:
    from trainer import architectures

    path = tmp_path / "mine.weights.h5"
    path.write_bytes(weights_file.read_bytes() if content == "another architecture" else b"nothing")
    with pytest.raises(UnusableWeights, match=r"mine.weights.h5 does not hold weights of mobilenet_v3_large"):
        architectures.build("mobilenet_v3_large", classes=2, image_size=SIZE, weights=path)


def test_a_loss_that_is_no_number_ends_the_training_with_advice(pictures: Any) -> None:
    from trainer import architectures

    network = architectures.build("mobilenet_v3_small", classes=2, image_size=SIZE, weights="none")
    network.head.kernel.assign(np.full(network.head.kernel.shape, np.nan, dtype=np.float32))
    with pytest.raises(DivergedTraining, match=r"epoch 1: use a learning_rate below 0.003"):
        fit(network, pictures)


def test_every_picture_is_in_one_batch_of_an_epoch_and_the_order_changes() -> None:
    from trainer import recipe

    labels = np.arange(50, dtype=np.int32)
    shuffle = np.random.default_rng(0)
    epochs = [list(recipe.batches(labels.astype(np.uint8), labels, 8, shuffle)) for _ in range(2)]
    for epoch in epochs:
        seen = np.concatenate([part for _, part in epoch])
        assert len(epoch) == 6
        assert len(set(seen.tolist())) == 48
        assert all((images == part).all() for images, part in epoch)
    assert [part.tolist() for _, part in epochs[0]] != [part.tolist() for _, part in epochs[1]]


def test_the_learning_rate_rises_and_then_falls_to_nothing() -> None:
    from trainer import recipe

    rates = [float(recipe.schedule(progress)) for progress in (0.0, 0.075, 0.15, 0.5, 0.9, 1.0)]
    assert rates[0] == 0.0
    assert rates[1] == pytest.approx(0.5)
    assert max(rates) == rates[2]
    assert rates[3] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.0, abs=1e-6)


def test_augmentation_crops_mirrors_and_stays_in_range(pictures: Any) -> None:
    import tensorflow as tf

    from trainer import recipe

    images = pictures[0][:16]
    tf.random.set_seed(3)
    pixels = recipe.augment(tf.constant(images), SIZE, 16).numpy()
    assert pixels.shape == (16, SIZE, SIZE, 3)
    assert pixels.min() >= 0.0
    assert pixels.max() <= 255.0
    assert len({float(picture.mean()) for picture in pixels}) == 16
    assert not np.array_equal(pixels, recipe.augment(tf.constant(images), SIZE, 16).numpy())


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(224, 224, 48), (100, 173, 64), (31, 7, 64), (64, 64, 64), (300, 200, 1), (13, 997, 48)],
)
def test_resizing_is_tensorflows_to_the_last_bit(height: int, width: int, size: int) -> None:
    import tensorflow as tf

    image = np.random.default_rng(size).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = tf.image.resize(image, [size, size], method="bilinear", antialias=False).numpy()
    assert np.abs(resize_bilinear(image, size) - expected).max() < 1e-3


KINDS = {
    "jpeg 4:2:0": ("RGB", "JPEG", {"quality": 85}),
    "jpeg 4:4:4": ("RGB", "JPEG", {"subsampling": 0}),
    "progressive jpeg": ("RGB", "JPEG", {"progressive": True}),
    "grey jpeg": ("L", "JPEG", {}),
    "cmyk jpeg": ("CMYK", "JPEG", {}),
    "png": ("RGB", "PNG", {}),
    "transparent png": ("RGBA", "PNG", {}),
    "grey and alpha png": ("LA", "PNG", {}),
    "palette png": ("P", "PNG", {}),
    "one-bit png": ("1", "PNG", {}),
    "sixteen-bit png": ("I;16", "PNG", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_is_the_serving_graphs_to_the_last_bit(kind: str) -> None:
    import tensorflow as tf

    mode, image_format, options = KINDS[kind]
    blocks = np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(blocks).resize((161, 121), Image.Resampling.BICUBIC)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode)
    data = encoded(picture, image_format, **options)
    expected = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    assert np.array_equal(decode_rgb(data), expected)
