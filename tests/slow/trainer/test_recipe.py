"""What the recipe does to a network, and that both definitions of a picture's pixels are one."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dualdeploy.contracts.training import RECIPES, FeatureNames, Metrics, Recipe
from dualdeploy.images.pixels import decode_rgb, resize_bilinear
from dualdeploy.images.tfrecord import encode_example, write_records
from trainer.data import examples
from trainer.data.examples import Shard
from trainer.process.failures import DivergedTraining, UnusableWeights

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


def lesson(network: Any, pictures: tuple[np.ndarray, np.ndarray], **changes: Any) -> Any:
    """What is taught: `changes` may name a recipe, class weights, what `watch` answers and who is told."""
    from trainer.loop import recipe

    images, labels = pictures
    settings = {"image_size": SIZE, "batch_size": 16} | {
        name: value for name, value in changes.items() if name in {"recipe", "class_weights", "precision", "compiled"}
    }
    return recipe.Lesson(
        network=network,
        images=images,
        labels=labels,
        settings=recipe.Settings(**settings),
        watch=changes.get("watch", lambda: metrics(1.0)),
        listener=recipe.Listener(
            after_step=changes.get("after_step", lambda _: None),
            after_epoch=changes.get("after_epoch", lambda report, reached: None),
        ),
    )


def noisy(number: int) -> bytes:
    """A JPEG of noise, brighter where the number is odd."""
    noise = np.random.default_rng(number).integers(0, 120 + 100 * (number % 2), (40, 50, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()


def metrics(loss: float) -> Metrics:
    return Metrics(accuracy=0.5, loss=loss, examples=1)


def fit(network: Any, pictures: tuple[np.ndarray, np.ndarray], resume: Any = None, **changes: Any) -> list[Any]:
    """Train; returns the reports of the epochs, each with the checkpoint after it."""
    from trainer.loop import recipe

    reports: list[Any] = []
    falling = iter(range(1000, 0, -1))

    def after_epoch(report: Any, reached: Any) -> None:
        reports.append((report, reached))

    defaults = {"watch": lambda: metrics(next(falling)), "after_epoch": after_epoch}
    taught = lesson(network, pictures, **(defaults | changes))
    plan = recipe.phases(
        network,
        epochs=changes.get("epochs", 2),
        learning_rate=changes.get("learning_rate", 0.003),
        recipe=changes.get("recipe", Recipe()),
    )
    with contextlib.suppress(InterruptedError):
        recipe.train(taught, plan, resume)
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
    assert reports[-1][0].loss < reports[0][0].loss
    assert [report.epoch for report, _ in reports] == [1, 2, 3, 4]


@pytest.mark.parametrize("own", [False, True], ids=["a published network", "one of somebody's own"])
def test_a_picture_that_the_network_is_very_wrong_about_teaches_it_as_much(own: bool, tmp_path: Path) -> None:
    import tensorflow as tf

    from trainer import architectures
    from trainer.loop import recipe

    file = tmp_path / "net.py"
    file.write_text(
        "import keras\ndef build(classes, image_size):\n    return keras.Sequential([keras.layers.Flatten(),"
        " keras.layers.Dense(classes, activation='softmax')])\n"
    )
    network = architectures.build(
        "module:net.py" if own else "mobilenet_v3_small",
        classes=3,
        image_size=SIZE,
        weights="none",
        module=file if own else None,
    )
    bias = network.model.trainable_variables[-1].value
    bias.assign([0.0, 60.0, 0.0])

    @tf.function(autograph=False)
    def learn() -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            answer = network.model(tf.zeros((1, SIZE, SIZE, 3)))
            loss = recipe.cross_entropy(answer, tf.constant([0]), 0.1)
        return loss, tape.gradient(loss, bias)

    loss, gradient = learn()
    assert float(loss[0]) == pytest.approx(60 * (0.9 + 2 * 0.1 / 3), rel=0.05)
    # What the network said, less what is true.
    assert np.allclose(gradient, [-0.9 - 0.1 / 3, 1 - 0.1 / 3, -0.1 / 3], atol=0.01)


def test_from_pretrained_weights_the_head_learns_first_and_then_only_the_top_of_the_base(
    pictures: Any, weights_file: Path
) -> None:
    from trainer import architectures

    network = architectures.build("mobilenet_v3_small", classes=2, image_size=SIZE, weights=weights_file)
    published = snapshot(network.base.weights)
    assert [report.phase for report, _ in fit(network, pictures, epochs=1)] == ["head"]
    assert not any(changed(published, network.base.weights)), "the head alone learns in the first phase"

    statistics = snapshot(network.model.non_trainable_variables)
    assert [report.phase for report, _ in fit(network, pictures, epochs=3)] == ["head", "fine-tune", "fine-tune"]
    moved = changed(published, network.base.weights)
    assert not any(moved[:40]), "the first layers keep what they were published with"
    assert any(moved[-20:]), "the last layers are fine-tuned"
    assert not any(changed(statistics, network.model.non_trainable_variables)), "batch statistics stay"


def test_a_head_that_is_fitted_to_features_is_right_before_the_first_step_and_the_whole_base_learns_at_once(
    pictures: Any, weights_file: Path
) -> None:
    import keras

    from trainer import architectures
    from trainer.loop import head, recipe

    images, labels = pictures
    network = architectures.build("mobilenet_v3_small", classes=2, image_size=SIZE, weights=weights_file)
    # Features of a random base are almost 0; here they are as large as those of one that learned something.
    last = [layer for layer in network.base.layers if isinstance(layer, keras.layers.Conv2D)][-1]
    last.kernel.assign(last.kernel * 1e11)
    before = snapshot(network.base.variables)
    head.fit(network, images, labels, image_size=SIZE, smoothing=0.05)
    predict = recipe.inference(network.model, SIZE)
    for seen in (images[:, 2:-2, 2:-2], images[:, 2:-2, -3:1:-1]):
        assert (np.argmax(predict(seen.astype(np.float32)), axis=1) == labels).mean() > 0.9
    assert not any(changed(before, network.base.variables))
    whole = Recipe.model_validate(RECIPES["whole_base"])
    (phase,) = recipe.phases(network, epochs=4, learning_rate=0.01, recipe=whole)
    assert (phase.name, phase.epochs, phase.learning_rate) == ("fine-tune", 4, pytest.approx(0.003))
    assert len(phase.variables) == len(network.model.trainable_variables)
    assert not phase.batch_statistics


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
    with pytest.raises(UnusableWeights, match=r"mine.weights.h5 does not hold weights of MobileNetV3Large"):
        architectures.build("mobilenet_v3_large", classes=2, image_size=SIZE, weights=path)


def test_a_loss_that_is_not_a_number_ends_the_training_with_advice(pictures: Any) -> None:
    from trainer import architectures

    network = architectures.build("mobilenet_v3_small", classes=2, image_size=SIZE, weights="none")
    kernel = network.head[0]
    kernel.assign(np.full(kernel.shape, np.nan, dtype=np.float32))
    with pytest.raises(DivergedTraining, match=r"epoch 1: use a learning_rate below 0.003"):
        fit(network, pictures)


def test_every_picture_is_in_one_batch_of_an_epoch_and_the_order_changes() -> None:
    from trainer.loop import recipe

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
    from trainer.loop import recipe

    rates = [float(recipe.schedule(progress, 0.15)) for progress in (0.0, 0.075, 0.15, 0.5, 0.9, 1.0)]
    assert rates[0] == 0.0
    assert rates[1] == pytest.approx(0.5)
    assert max(rates) == rates[2]
    assert rates[3] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.0, abs=1e-6)
    assert float(recipe.schedule(0.0, 0.0)) == 1.0


def scratch(pictures: Any) -> Any:
    import keras

    from trainer import architectures

    keras.utils.set_random_seed(0)
    return architectures.build("mobilenet_v3_small", classes=2, image_size=SIZE, weights="none")


def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(pictures: Any) -> None:
    from trainer.process import checkpoints

    whole = scratch(pictures)
    reports = fit(whole, pictures, epochs=4)
    expected = snapshot(whole.model.variables)

    # The process is gone after the second epoch; all that the next one has is a file.
    kept = checkpoints.parse(reports[1][1].to_bytes("job"), "job", source="last.npz")
    resumed, later = scratch(pictures), itertools.count(1)
    rest = fit(resumed, pictures, epochs=4, resume=kept, watch=lambda: metrics(1 / next(later)))
    assert [report.epoch for report, _ in rest] == [3, 4]
    assert [report.loss for report, _ in rest] == pytest.approx([r.loss for r, _ in reports[2:]], rel=1e-3)
    # Sums over threads differ in their last bit, and Adam takes whole steps for gradients that are next to nothing.
    distances = [
        np.abs(value - other).mean() for value, other in zip(snapshot(resumed.model.variables), expected, strict=True)
    ]
    assert np.mean(distances) < 2e-4
    assert [entry["epoch"] for entry in rest[-1][1].history] == [1, 2, 3, 4]


SMALL_NETWORK = """
import keras

L = keras.layers


def build(classes, image_size):
    convolution = L.Conv2D(8, 3, strides=2, activation="relu")
    return keras.Sequential(
        [L.Rescaling(1 / 127.5, offset=-1), convolution, L.BatchNormalization(), L.GlobalAveragePooling2D(),
         L.Dropout(0.2), L.Dense(classes, activation="softmax")]
    )
"""


def test_pictures_that_fit_nowhere_teach_in_each_step_what_those_in_memory_do_also_after_a_kill(tmp_path: Path) -> None:
    import keras

    from trainer import architectures
    from trainer.data.decoding import ImageDecoder
    from trainer.process import checkpoints

    (tmp_path / "net.py").write_text(SMALL_NETWORK)
    shard = Shard("train.tfrecord", tmp_path / "train.tfrecord")
    write_records(
        shard.path, [encode_example({"image": [noisy(number)], "class": [number % 2]}) for number in range(80)]
    )
    epochs = 4

    def attempt(folder: Path, found: Any = None, *, killed_after: int = 0, **limits: int) -> tuple[list[Any], Any]:
        """A process from its shards on: pictures and loss of each step, and the checkpoint that it leaves."""
        folder.mkdir()
        data = examples.load(
            [shard],
            [],
            labels=("a", "b"),
            features=FeatureNames(),
            image_size=SIZE,
            max_bad_records=0,
            folder=folder,
            augmentation="light",
            decoders=ImageDecoder,
            **limits,
        )
        met: list[str] = []
        taken: list[tuple[str, float]] = []

        class Looking:
            """The pictures as the loop asks for them."""

            def __len__(self) -> int:
                return len(data.train)

            def __getitem__(self, places: Any) -> np.ndarray:
                pixels: np.ndarray = data.train.pixels[places]
                met.append(hashlib.sha256(pixels.tobytes()).hexdigest())
                return pixels

        def after_step(outcome: Any) -> None:
            taken.append((met[len(taken)], float(outcome[0])))
            if len(taken) == killed_after:
                raise InterruptedError

        keras.utils.set_random_seed(3)
        network = architectures.build(
            "module:net.py", classes=2, image_size=SIZE, weights="none", module=tmp_path / "net.py"
        )
        reports = fit(network, (Looking(), data.train.labels), found, epochs=epochs, after_step=after_step)
        return taken, reports[-1][1].to_bytes("job")

    whole, _ = attempt(tmp_path / "memory", memory=1 << 30)
    assert len({pictures for pictures, _ in whole}) == len(whole), "no two steps have the same pictures"
    steps = len(whole) // epochs
    assert steps >= 4
    mapped, _ = attempt(tmp_path / "mapped", memory=0)
    assert (tmp_path / "mapped" / "train.pixels").stat().st_size
    # Killed in the third epoch: the next attempt has the second one's checkpoint, and begins with the third.
    before, kept = attempt(tmp_path / "each time", killed_after=2 * steps + 3, disk=0)
    found = checkpoints.parse(kept, "job", source="last.npz")
    after, _ = attempt(tmp_path / "each time again", found, disk=0)
    assert not (tmp_path / "each time again" / "train.pixels").stat().st_size
    for name, told in {"mapped": mapped, "killed": before, "resumed": before[: 2 * steps] + after}.items():
        expected = whole[: len(told)]
        assert [pictures for pictures, _ in told] == [pictures for pictures, _ in expected], name
        assert [loss for _, loss in told] == pytest.approx([loss for _, loss in expected], abs=1e-5), name
    assert (len(before), len(after)) == (2 * steps + 3, 2 * steps)


def test_the_weights_of_the_best_epoch_are_kept_and_training_stops_when_it_gets_no_better(pictures: Any) -> None:
    losses = iter([5.0, 3.0, 4.0, 3.5, 9.0, 9.0])
    network = scratch(pictures)
    settings = {"epochs": 6, "recipe": Recipe(early_stopping=2), "watch": lambda: metrics(next(losses))}
    reports = fit(network, pictures, **settings)
    assert [report.held_out_loss for report, _ in reports] == [5.0, 3.0, 4.0, 3.5, 9.0]
    second, last = reports[1][1], reports[-1][1]
    assert (last.best_epoch, last.best_loss) == (2, 3.0)
    assert not any(changed(list(second.weights), network.model.variables)), "the weights are those of epoch 2"

    # An attempt that finds the checkpoint of the last epoch has nothing left to train.
    again = scratch(pictures)
    assert fit(again, pictures, resume=last, **settings) == []
    assert not any(changed(list(second.weights), again.model.variables))


def test_no_epoch_of_the_first_half_ends_the_training(pictures: Any) -> None:
    """Measured: a held-out loss that jumps about while the learning rate is high ended 60 epochs after 9."""
    losses = iter([2.0, 9.0, 9.0, 9.0, 1.0, 9.0, 9.0])
    recipe = Recipe(early_stopping=2)
    reports = fit(scratch(pictures), pictures, epochs=8, recipe=recipe, watch=lambda: metrics(next(losses)))
    assert [report.epoch for report, _ in reports] == [1, 2, 3, 4, 5, 6, 7]
    assert reports[-1][1].best_epoch == 5


def test_a_held_out_loss_that_is_not_a_number_ends_the_training(pictures: Any) -> None:
    with pytest.raises(DivergedTraining, match="the loss became nan in epoch 1"):
        fit(scratch(pictures), pictures, watch=lambda: metrics(float("nan")))


def test_a_checkpoint_of_a_network_with_other_weights_starts_anew(
    pictures: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from trainer.process.checkpoints import Checkpoint

    foreign = Checkpoint(epoch=1, weights=[np.zeros(3)])
    assert [report.epoch for report, _ in fit(scratch(pictures), pictures, epochs=1, resume=foreign)] == [1]
    assert "a network with other weights" in caplog.text


def test_weight_decay_shrinks_kernels_and_leaves_biases_alone() -> None:
    import tensorflow as tf

    from trainer.loop.optimizer import AdamW

    kernel, bias = tf.Variable(tf.ones([2, 2])), tf.Variable(tf.ones([2]))
    optimizer = AdamW([kernel, bias], decay=0.1)
    optimizer.apply([tf.zeros([2, 2]), tf.zeros([2])], tf.constant(0.5), tf.constant(1.0))
    assert kernel.numpy() == pytest.approx(np.full((2, 2), 0.95))
    assert bias.numpy() == pytest.approx(np.ones(2))


def test_adamw_takes_the_steps_of_keras() -> None:
    import keras
    import tensorflow as tf

    from trainer.loop.optimizer import AdamW

    start = np.array([[1.0, -2.0], [0.5, 3.0]], dtype=np.float32)
    ours, theirs = tf.Variable(start), keras.Variable(start)
    optimizer = AdamW([ours], decay=0.02)
    reference = keras.optimizers.AdamW(learning_rate=0.1, weight_decay=0.02)
    for step in range(1, 6):
        gradient = tf.constant(np.sin(step * start), tf.float32)
        optimizer.apply([gradient], tf.constant(0.1), tf.constant(float(step)))
        reference.apply([gradient], [theirs])
    assert ours.numpy() == pytest.approx(theirs.value.numpy(), abs=1e-5)


def test_a_scaled_step_is_the_unscaled_one_and_one_with_infinite_gradients_is_left_out() -> None:
    import tensorflow as tf

    from trainer.loop.optimizer import FIRST_SCALE, AdamW

    plain, scaled = tf.Variable([[1.0, 2.0]]), tf.Variable([[1.0, 2.0]])
    optimizers = [AdamW([plain], decay=0.02), AdamW([scaled], decay=0.02, scaled=True)]
    assert float(optimizers[1].scale(tf.constant(1.0))) == FIRST_SCALE
    for count in (1.0, 2.0):
        for optimizer in optimizers:
            gradient = optimizer.scale(tf.constant([[0.3, -0.1]]))
            optimizer.apply([gradient], tf.constant(0.1), tf.constant(count))
    assert scaled.numpy() == pytest.approx(plain.numpy(), rel=1e-6)

    before = scaled.numpy()
    optimizers[1].apply([tf.constant([[np.inf, 0.0]])], tf.constant(0.1), tf.constant(3.0))
    assert np.array_equal(scaled.numpy(), before)
    assert float(optimizers[1].scale(tf.constant(1.0))) == FIRST_SCALE / 2
    # A resumed training goes on with that scale.
    resumed = AdamW([scaled], decay=0.02, scaled=True)
    resumed.restore(optimizers[1].state())
    assert float(resumed.scale(tf.constant(1.0))) == FIRST_SCALE / 2
    # On an accelerator with another number format there was none, and there is none.
    elsewhere, back = AdamW([plain], decay=0.02), AdamW([scaled], decay=0.02, scaled=True)
    elsewhere.restore(resumed.state())
    assert float(elsewhere.scale(tf.constant(1.0))) == 1.0
    back.restore(optimizers[0].state())
    assert float(back.scale(tf.constant(1.0))) == FIRST_SCALE


def test_layers_compute_in_bfloat16_and_weights_and_probabilities_stay_float32(pictures: Any) -> None:
    import keras

    from trainer import architectures

    keras.utils.set_random_seed(0)
    network = architectures.build(
        "mobilenet_v3_small", classes=2, image_size=SIZE, weights="none", precision="mixed_bfloat16"
    )
    reports = fit(network, pictures, epochs=4, precision="mixed_bfloat16")
    assert reports[-1][0].loss < reports[0][0].loss
    assert {str(weight.dtype) for weight in network.model.weights} == {"float32"}
    inner = [layer for layer in network.base.layers if isinstance(layer, keras.layers.Conv2D)]
    assert {layer.compute_dtype for layer in inner} == {"bfloat16"}
    assert network.model.output.dtype == "float32"
    assert keras.config.dtype_policy().name == "float32", "nothing that is built later is changed by it"


def test_a_step_compiled_by_xla_learns_what_the_plain_one_learns(pictures: Any) -> None:
    losses = []
    for compiled in (False, True):
        reports = fit(scratch(pictures), pictures, epochs=1, compiled=compiled)
        losses.append(reports[0][0].loss)
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_replicas_draw_the_changes_that_one_would_have_drawn_for_the_whole_batch(pictures: Any) -> None:
    from trainer.loop.augmentation import augment

    images, seed = pictures[0][:16], np.array([3, 7])
    whole = augment(images, SIZE, seed, "standard").numpy()
    parts = [augment(images[8 * n : 8 * n + 8], SIZE, seed, "standard", part=n, parts=2).numpy() for n in (0, 1)]
    assert np.concatenate(parts) == pytest.approx(whole, abs=1e-3)


def test_pictures_of_classes_that_count_nothing_teach_nothing(pictures: Any) -> None:
    network = scratch(pictures)
    before = snapshot(network.model.trainable_variables)
    nothing = np.zeros(2, dtype=np.float32)
    reports = fit(network, pictures, epochs=1, class_weights=nothing, recipe=Recipe(weight_decay=0.0))
    assert reports[0][0].loss == 0.0
    assert not any(changed(before, network.model.trainable_variables))


def ramps(count: int, side: int = 36) -> np.ndarray:
    """Pictures that grow brighter from left to right, so that mirroring shows."""
    ramp = np.linspace(60, 160, side).astype(np.uint8)
    return np.broadcast_to(ramp[None, None, :, None], (count, side, side, 3)).copy()


@pytest.mark.parametrize("strength", ["standard", "light"])
def test_augmentation_mirrors_half_of_the_pictures_changes_each_and_stays_in_range(strength: Any) -> None:
    from trainer.loop.augmentation import augment

    pixels = augment(ramps(64), SIZE, np.array([3, 7]), strength).numpy()
    assert pixels.shape == (64, SIZE, SIZE, 3)
    assert pixels.min() >= 0.0
    assert pixels.max() <= 255.0
    assert len({float(picture.mean()) for picture in pixels}) == 64
    rising = (pixels[:, 0, -1, 0] > pixels[:, 0, 0, 0]).sum()
    assert 16 < rising < 48


def test_the_same_seed_changes_pictures_the_same_way_and_the_next_step_otherwise() -> None:
    from trainer.loop.augmentation import augment

    first, again, following = (augment(ramps(8), SIZE, np.array([3, step]), "standard").numpy() for step in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, following)


def test_a_light_crop_moves_a_window_by_whole_pixels(pictures: Any) -> None:
    from trainer.loop.augmentation import augment

    images = pictures[0][:16]
    for image, result in zip(images, augment(images, SIZE, np.array([1, 2]), "light").numpy(), strict=True):
        windows = [image[top : top + SIZE, left : left + SIZE] for top in range(5) for left in range(5)]
        candidates = [np.asarray(each, float) for window in windows for each in (window, window[:, ::-1])]
        # Brightness is one factor for the whole picture, and only clipping at 255 disturbs it.
        fair = result < 255
        distances = []
        for candidate in candidates:
            factor = result[fair].sum() / candidate[fair].sum()
            distances.append(np.abs(result - factor * candidate)[fair].max())
        assert min(distances) < 0.5


def test_without_augmentation_pictures_are_what_they_are(pictures: Any) -> None:
    from trainer.loop.augmentation import augment

    images = pictures[0][:4]
    assert np.array_equal(augment(images, 36, np.array([0, 0]), "none").numpy(), images.astype(np.float32))


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


@pytest.mark.parametrize("kind", ["jpeg 4:2:0", "progressive jpeg", "grey jpeg", "cmyk jpeg", "png", "palette png"])
@pytest.mark.parametrize("side", [48, 121, 200])
def test_decoding_many_pictures_at_once_is_the_one_definition_in_whole_grey_levels(kind: str, side: int) -> None:
    from trainer.data.decoding import ImageDecoder

    mode, image_format, options = KINDS[kind]
    blocks = np.random.default_rng(2).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(blocks)
    sizes = [(161, 121), (121, 121), (48, 48)]
    files = [encoded(picture.resize(size).convert(mode), image_format, **options) for size in sizes]
    decoded = ImageDecoder(side)(files)
    assert decoded is not None
    assert decoded.dtype == np.uint8
    for data, pixels in zip(files, decoded, strict=True):
        assert np.abs(pixels - resize_bilinear(decode_rgb(data), side)).max() <= 0.501


@pytest.mark.parametrize("wrong", ["truncated", "nothing"])
def test_a_group_with_a_picture_that_cannot_be_decoded_is_left_to_others(wrong: str) -> None:
    from trainer.data.decoding import ImageDecoder

    good = encoded(Image.new("RGB", (64, 64), (200, 10, 10)), "JPEG")
    decoder = ImageDecoder(32)
    assert decoder([good, {"truncated": good[: len(good) // 2], "nothing": b""}[wrong]]) is None
    assert decoder([good]) is not None
