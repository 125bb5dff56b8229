"""Formats, splits and fixed orders of the data sets, and what a wrong name is told."""

import collections
import gzip
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from experiments import data

# Present on the machines of the maintainers only.
SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"


def needs(name: str) -> pathlib.Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"no data set at {SHARED / name}")
    return SHARED / name


def write_idx(path: pathlib.Path, array: np.ndarray) -> None:
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def mnist_dir(tmp_path):
    """Six images of 2 x 3 pixels under MNIST's file names."""
    images = np.arange(36).reshape(6, 2, 3)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.array([5, 0, 4, 1, 9, 2]))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "sizes", "shape", "max_value"),
    [("digits", (1442, 355), (8, 8), 16), ("iris", (120, 30), (4,), 79)],
)
def test_built_in_sets_are_split_for_good(name, sizes, shape, max_value):
    train, test = data.load(name, "train"), data.load(name, "test")
    assert (len(train), len(test)) == sizes
    for part in (train, test):
        assert part.images.shape[1:] == shape
        assert part.images.dtype == np.uint8
        assert part.images.max() <= part.max_value == max_value
        assert part.labels.dtype == np.int32
    everything = np.concatenate([train.images, test.images])
    assert everything.max() == max_value
    counts = collections.Counter(test.labels.tolist())
    for label, count in collections.Counter(train.labels.tolist()).items():
        assert 3.9 < count / counts[label] < 5


def test_first_digits_are_those_of_the_documented_walk():
    """Steps of 701 from 0; the fifth visited of each class goes to test."""
    from sklearn import datasets

    bunch = datasets.load_digits()
    seen = collections.Counter()
    train, test = [], []
    for step in range(1797):
        index = step * 701 % 1797
        label = int(bunch.target[index])
        (test if seen[label] % 5 == 4 else train).append(index)
        seen[label] += 1
    np.testing.assert_array_equal(
        data.load("digits", "train").images, bunch.images[train]
    )
    np.testing.assert_array_equal(
        data.load("digits", "test").labels, bunch.target[test]
    )


def test_iris_are_the_millimetres_of_scikit_learn():
    from sklearn import datasets

    bunch = datasets.load_iris()
    train, test = data.load("iris", "train"), data.load("iris", "test")
    found = np.concatenate([train.images, test.images])
    expected = np.rint(bunch.data * 10).astype(int)
    np.testing.assert_array_equal(
        found[np.lexsort(found.T)], expected[np.lexsort(expected.T)]
    )
    assert train.class_names == tuple(bunch.target_names)


def test_missing_scikit_learn_is_a_usage_error(monkeypatch):
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--dataset=digits: .*experiments"):
        data.check_dataset("digits", None)


def test_idx_files_are_read_in_order(mnist_dir):
    train = data.load("mnist", "train", mnist_dir)
    assert train.images.tolist() == np.arange(36).reshape(6, 2, 3).tolist()
    assert train.labels.tolist() == [5, 0, 4, 1, 9, 2]
    assert train.num_classes == 10
    assert train.max_value == 255
    assert len(data.load("mnist", "train", mnist_dir, limit=2).images) == 2


def test_idx_files_may_be_uncompressed_and_one_directory_below(tmp_path):
    (tmp_path / "fashion_mnist").mkdir()
    for stem, array in (("images-idx3", np.ones((2, 2, 2))), ("labels-idx1", [1, 8])):
        write_idx(tmp_path / "fashion_mnist" / f"t10k-{stem}-ubyte", np.array(array))
    test = data.load("fashion_mnist", "test", tmp_path)
    assert [test.class_names[i] for i in test.labels] == ["Trouser", "Bag"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-7],  # truncated gzip
        lambda raw: b"<html>404</html>",
        lambda raw: gzip.compress(gzip.decompress(raw)[:-1]),
        lambda raw: gzip.compress(b"\0\0\x0b\3" + gzip.decompress(raw)[4:]),
        lambda raw: gzip.compress(gzip.decompress(raw)[:9]),
    ],
)
def test_damaged_idx_file_is_named(damage, mnist_dir):
    path = mnist_dir / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz: is damaged"):
        data.load("mnist", "train", mnist_dir)


def test_labels_of_no_class_are_refused(mnist_dir):
    labels = np.array([5, 0, 4, 1, 9, 10])
    write_idx(mnist_dir / "train-labels-idx1-ubyte.gz", labels)
    told = r"labels-idx1-ubyte\.gz: is damaged \(label 10 of 10 classes\)"
    with pytest.raises(ValueError, match=told):
        data.load("mnist", "train", mnist_dir)


def test_unequal_numbers_of_images_and_labels_are_refused(mnist_dir):
    write_idx(mnist_dir / "train-labels-idx1-ubyte.gz", np.arange(5))
    with pytest.raises(ValueError, match="6 images but 5 labels"):
        data.load("mnist", "train", mnist_dir)


def test_jpeg_zip_goes_by_number_then_class(tmp_path):
    from PIL import Image

    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for label, name in enumerate(("airplane", "truck")):
            for number in range(2):
                path = tmp_path / "x.jpg"
                grey = 100 * label + 40 * number
                Image.new("RGB", (32, 32), (grey, grey, grey)).save(path, quality=95)
                archive.write(path, f"{name}/{number:04d}.jpg")
    train = data.load("cifar10_jpeg", "train", tmp_path)
    assert train.class_names == ("airplane", "truck")
    assert train.labels.tolist() == [0, 1, 0, 1]
    levels = train.images.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(levels, [0, 100, 40, 140], atol=3)
    assert len(data.load("cifar10_jpeg", "train", tmp_path, limit=3)) == 3
    (tmp_path / "train.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"train\.zip: is damaged"):
        data.load("cifar10_jpeg", "train", tmp_path)


def test_texts_keep_their_words(tmp_path):
    (tmp_path / "val.txt").write_text(
        'text;label_name\nsaid "no, thanks";joy\nI;fear\n'
    )
    emotion = data.load("emotion", "validation", tmp_path)
    assert emotion.texts == ('said "no, thanks"', "I")
    assert [emotion.class_names[i] for i in emotion.labels] == ["joy", "fear"]
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nfine ; film\t1\nbad\t2\n")
    assert data.load("sst2", "validation", tmp_path, limit=1).texts == ("fine ; film",)
    with pytest.raises(ValueError, match=r"dev\.tsv: is damaged \(line 3"):
        data.load("sst2", "validation", tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"text;label\n\xff;joy\n", r"val\.txt: is damaged \('utf-8' codec"),
        (b"text;label\n" + b"x" * 200_000 + b";joy\n", r"val\.txt: is damaged \(field"),
        (b"text;label\n", "holds no example of --dataset=emotion, validation"),
        (b"", "holds no example"),
    ],
)
def test_damaged_and_empty_texts_are_told(content, told, tmp_path):
    (tmp_path / "val.txt").write_bytes(content)
    with pytest.raises(ValueError, match=told):
        data.load("emotion", "validation", tmp_path)


@pytest.mark.parametrize(
    ("name", "split", "data_dir", "named"),
    [
        ("mnits", "train", "@", ["--dataset=mnits", "mnist", "digits"]),
        ("mnist", "val", "@", ["--split=val", "train, test"]),
        ("mnist", "test", None, ["--data_dir", "t10k-images-idx3-ubyte.gz"]),
        ("sst2", "train", "@", ["--data_dir=", "lacks train.tsv"]),
        ("sst2", "train", "@/no", ["--data_dir=", "does not exist"]),
    ],
)
def test_wrong_name_is_told_what_is_valid(name, split, data_dir, named, tmp_path):
    where = None if data_dir is None else data_dir.replace("@", str(tmp_path))
    with pytest.raises(ValueError, match="--") as error:
        data.check_dataset(name, where, [split])
    assert all(part in str(error.value) for part in named), error.value
    assert "\n" not in str(error.value)


def test_check_looks_at_the_needed_splits_only(mnist_dir):
    data.check_dataset("mnist", mnist_dir, ["train"])
    with pytest.raises(ValueError, match="t10k"):
        data.check_dataset("mnist", mnist_dir)
    for name in ("digits", "iris"):
        data.check_dataset(name, None)


def test_limit_must_be_positive():
    with pytest.raises(ValueError, match="limit=0"):
        data.load("digits", "train", limit=0)


def test_import_is_light():
    code = (
        "import sys; from experiments import data; data.load('digits', 'test');"
        "heavy = {'jax', 'sklearn', 'PIL'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "split", "size"),
    [
        ("mnist", "test", 10_000),
        ("fashion_mnist", "test", 10_000),
        ("emotion", "validation", 2_000),
        ("sst2", "test", 872),
    ],
)
def test_published_files_have_their_published_sizes(name, split, size):
    loaded = data.load(name, split, needs(name))
    assert len(loaded) == size
    assert set(loaded.labels.tolist()) == set(range(loaded.num_classes))


def test_first_mnist_training_labels_are_the_known_ones():
    train = data.load("mnist", "train", needs("mnist"), limit=10)
    assert train.labels.tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


def test_cifar_prefix_is_balanced():
    test = data.load("cifar10_jpeg", "test", needs("cifar10_jpeg"), limit=50)
    assert np.bincount(test.labels).tolist() == [5] * 10
    assert test.class_names[3] == "cat"


def test_image_folders_become_squares_of_one_size(tmp_path):
    from PIL import Image

    def put(name, width, height, grey):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (width, height), grey).save(path)

    put("train/cat/a.png", 12, 10, 10)
    put("train/cat/b.PNG", 40, 20, 20)
    put("train/dog/z.png", 10, 10, 30)
    put("test/cat/a.png", 5, 7, 40)
    (tmp_path / "train/cat/notes.txt").touch()
    (tmp_path / "test/dog").mkdir()
    train = data.load("image_folder", "train", tmp_path)
    assert train.images.shape == (3, 10, 10, 3)
    assert train.class_names == ("cat", "dog")
    # First images of each class before second ones.
    assert train.labels.tolist() == [0, 1, 0]
    assert train.images[:, 0, 0, 0].tolist() == [10, 30, 20]
    assert data.load("image_folder", "test", tmp_path).images.shape == (1, 10, 10, 3)
    (tmp_path / "test/bird").mkdir()
    with pytest.raises(ValueError, match=r"train and test differ .*\['bird'\]"):
        data.load("image_folder", "test", tmp_path)


def test_wide_images_lose_their_sides():
    from PIL import Image

    from experiments import image_folder

    stripes = np.repeat([[0] * 5 + [200] * 10 + [0] * 5], 10, axis=0).astype(np.uint8)
    square = image_folder._square(Image.fromarray(stripes), 10)
    assert (square == 200).all()
