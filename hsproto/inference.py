"""A trained run, for use: embed and classify images, add and remove classes, without training."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsproto import prototypes as prototypes_lib
from hsproto.core import numerics
from hsproto.data import augment, intake
from hsproto.data.decode import UnreadableImage
from hsproto.data.source import data_spec
from hsproto.errors import UserError
from hsproto.evaluation import trained
from hsproto.models import architecture
from hsproto.models import classifier as classifier_lib
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.runs import config_file, data_file, metrics_log, predictor_file
from hsproto.runs import summary as summary_lib

BATCH_SIZE = 64  # images in memory at a time
FEATURE_ROWS = 1024  # the same of features, where there are more than BATCH_SIZE


class Predictions(NamedTuple):
    """The answers for N images.

    Attributes:
        labels: int [N], the likeliest class of each, also where it is rejected; -1 where there is
            none, as for the embedding of a network that has diverged.
        names: N names of these classes; empty for -1.
        cosines: float32 [N, K], between embeddings and prototypes.
        rejected: bool [N], whether the cosine to the likeliest class is below what was asked for.
    """

    labels: np.ndarray
    names: list[str]
    cosines: np.ndarray
    rejected: np.ndarray


class _Programs:
    """The compiled programs of a network, which runs with other classes share."""

    def __init__(self, config: Any):
        model = model_lib.build(config, config.num_classes)
        preprocess = augment.make_preprocess(config)

        def project(variables, images):
            return model_lib.forward(model, variables, preprocess(images), train=False)[0][1]

        def classify(features, weights, bias):
            return (
                classifier_lib.predict(config, features, weights, bias),
                classifier_lib.logits(config, features, weights, bias),
                numerics.cosines(features, weights),
            )

        self.project, self.classify = jax.jit(project), jax.jit(classify)
        self.unit = jax.jit(numerics.l2_normalize)


class Run:
    """A state of a run, for use; made by `load`. Nothing changes it.

    `images` is, in all methods: paths of files and folders (all image files below one, in the order
    of their names), Pillow's pictures, or arrays uint8 [H, W] or [H, W, C], one or a list of any of
    these; or one array uint8 [N, H, W] or [N, H, W, C]. C is 1, 3 or 4. They are turned upright,
    converted, resized and cut as the run's own test images, in batches of bounded memory.

    All methods raise UserError: images are none at all, cannot be read, or are of a wrong type or
    shape.

    Attributes:
        config: the resolved config that the network was trained with; a class that was added or
            removed does not change it.
        step: of the state.
        class_names: K names.
        prototypes: float32 [K, D], those that predict, as prototypes.npz has them: only their
            directions matter, except to cross entropy, whose weights they are.
        metrics: {"test": {name: value}, "train": {...}}, what the run has measured at this step;
            empty where it has not. They are those of the classes that it was trained on.
    """

    def __init__(self, predictor: predictor_file.Predictor, variables: Any, programs: _Programs):
        self._predictor, self._variables, self._programs = predictor, variables, programs
        self.config, self.step = predictor.config, predictor.step
        self.class_names, self.prototypes = predictor.class_names, predictor.prototypes
        self.metrics = predictor.metrics
        self._spec = data_spec(self.config)

    def embed(self, images: Any) -> np.ndarray:
        """Return embeddings float32 [N, D], of unit length, in the space of the prototypes."""
        return np.concatenate(
            [np.asarray(self._programs.unit(rows))[:count] for rows, count in self._project(images)]
        )

    def predict(self, images: Any, reject: float | None = None) -> Predictions:
        """Classify images as the run's evaluation does: by cosine, for cross entropy by logit.

        Args:
            images: see the class.
            reject: an image whose cosine to its likeliest class is below this, in -1..1, is marked
                as rejected; None: none is. `threshold` finds a value.
        """
        found = self._classified(images)
        labels, cosines = _joined((labels, cosines) for _, labels, _, cosines in found)
        if reject is not None and not -1 <= reject <= 1:
            raise UserError(f"reject={reject} is no cosine: give a number in -1..1")
        best = np.take_along_axis(cosines, np.maximum(labels, 0)[:, None], axis=1)[:, 0]
        rejected = (labels < 0) | (False if reject is None else best < reject)
        names = [self.class_names[c] if c >= 0 else "" for c in labels]
        return Predictions(labels, names, cosines, rejected)

    def rank(self, images: Any, top: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return (classes, cosines), int and float32 [N, top], of each image the likeliest first.

        Args:
            images: see the class.
            top: how many classes; None: all.
        """
        found = []
        for _, _, logits, cosines in self._classified(images):
            order = np.argsort(-logits, axis=1, kind="stable")[:, :top]
            found.append((order, np.take_along_axis(cosines, order, axis=1)))
        return _joined(found)

    def with_class(self, name: str, images: Any) -> "Run":
        """Return a run with one more class, the last, whose prototype is the mean of its images.

        Nothing is trained, and the other prototypes stay: the new one is the direction of the mean
        of the images' embeddings.

        Raises:
            UserError: the run has a class of this name; or it is one of cross entropy, whose
                weights have lengths and biases that only training balances against each other.
        """
        if self.config.loss == "cross_entropy":
            raise UserError(
                "with_class: cross_entropy classifies by weights and biases that are trained "
                "together, so no class can be added without training: use a run of another loss"
            )
        if not isinstance(name, str) or not name:
            raise UserError(f"class name {name!r}: give a text")
        if name in self.class_names:
            raise UserError(f"the run has a class {name!r} already: {self._classes()}")
        features = self.embed(images)
        labels = np.zeros(len(features), np.int32)
        row = np.asarray(prototypes_lib.fit(features, labels, num_classes=1))
        return self._with(
            class_names=(*self.class_names, name),
            prototypes=np.concatenate([self.prototypes, row.astype(np.float32)]),
        )

    def without_class(self, name: str) -> "Run":
        """Return a run that never predicts a class; the classes after it move up by one.

        Raises:
            UserError: the run has no such class, or no other.
        """
        if name not in self.class_names:
            hint = ", by name" if str(name) in self.class_names else ""
            raise UserError(f"the run has no class {name!r}: {self._classes()}{hint}")
        if len(self.class_names) == 1:
            raise UserError(f"{name!r} is the run's only class: one must stay")
        kept = np.delete(np.arange(len(self.class_names)), self.class_names.index(name))
        bias = self._predictor.bias
        return self._with(
            class_names=tuple(self.class_names[c] for c in kept),
            prototypes=self.prototypes[kept],
            bias=None if bias is None else bias[kept],
        )

    def threshold(self, images: Any, labels: Sequence[int], far: float = 0.05) -> float:
        """Return the cosine below which to reject, of which a share `far` would falsely stay.

        Best measured on images of none of the classes, with label -1: the threshold is then the
        cosine that a share `far` of them reaches. Without any, each image stands for one of a class
        that the run does not know, and its cosine to the nearest prototype but that of its own
        class counts. That is the easier case: a network that has collapsed pulls the images of its
        own classes away from all other prototypes, and not those of new ones.

        Args:
            images: see the class.
            labels: int [N], 0..K-1, or -1 for an image of none of the classes.
            far: the share of false acceptance, in 0..1.

        Raises:
            UserError: `far` is no share, or the labels are of another number, type or range.
        """
        if not 0 <= far <= 1:
            raise UserError(f"far={far} is no share: give a number in 0..1")
        wanted, classes = np.asarray(labels), len(self.class_names)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise UserError(
                f"labels are {wanted.dtype} of shape {wanted.shape}: give integers [N], the places "
                "of classes in class_names, or -1"
            )
        if wanted.size and not (-1 <= wanted.min() and wanted.max() < classes):
            raise UserError(
                f"labels are {wanted.min()}..{wanted.max()}: the run's classes are 0..{classes - 1}"
                ", and -1 is none of them"
            )
        images = intake.listed(images, self._spec)
        if len(images) != len(wanted):
            raise UserError(f"{len(wanted)} labels of {len(images)} images: give one for each")
        strangers = wanted < 0
        if not strangers.any() and classes == 1:
            raise UserError("a run of one class needs images of others, with label -1")
        largest = []
        for rows, _, _, cosines in self._classified(images):
            known = np.flatnonzero(~strangers[rows])
            cosines[known, wanted[rows][known]] = -np.inf
            largest.append((cosines.max(axis=1),))
        (found,) = _joined(largest)
        return float(np.quantile(found[strangers] if strangers.any() else found, 1 - far))

    def save(self, path: str | os.PathLike) -> None:
        """Write the run to a folder, as one file, predictor.npz, which `load` opens again.

        It predicts, and holds no optimizer and no training data: it cannot be trained on. One that
        is there is replaced.

        Raises:
            UserError: the folder holds a run of training, or cannot be made.
        """
        variables = {name: np.asarray(value) for name, value in _named(self._variables).items()}
        predictor_file.write(os.fspath(path), self._predictor, variables)

    def program(self) -> tuple[dict[str, np.ndarray], Callable[..., tuple[jax.Array, jax.Array]]]:
        """Return the weights by name, and a pure function of them and of images, for `jax.export`.

        (weights, uint8 [N, S, S, C]) -> (labels int32 [N], cosines float32 [N, K]), as `predict`
        answers; S and C are those of the config, or its `load_size` where it has one.
        """
        leaves = {f"network/{name}": value for name, value in _named(self._variables).items()}
        structure = jax.tree.structure(self._variables)
        classifier = {"prototypes": self.prototypes}
        if self._predictor.bias is not None:
            classifier["bias"] = self._predictor.bias
        programs = self._programs

        def call(weights, images):
            variables = jax.tree.unflatten(structure, [weights[name] for name in leaves])
            rows = programs.project(variables, images)
            labels, _, cosines = programs.classify(rows, weights["prototypes"], weights.get("bias"))
            return labels, cosines

        return {name: _host(value) for name, value in (leaves | classifier).items()}, call

    def _with(self, **changes) -> "Run":
        return Run(self._predictor._replace(**changes), self._variables, self._programs)

    def _classes(self):
        names = ", ".join(map(repr, self.class_names[:20]))
        return f"its classes are {names}{' and more' if len(self.class_names) > 20 else ''}"

    def _project(self, images) -> Iterator[tuple[jax.Array, int]]:
        """Yield (rows [B, D], how many of them count) of batches.

        The last batch is padded, so that one program is compiled; one image alone has its own.
        """
        images = intake.listed(images, self._spec)
        of_features = self._spec.source == "features"
        size = 1 if len(images) == 1 else BATCH_SIZE
        if of_features and len(images) > BATCH_SIZE:
            size = FEATURE_ROWS
        for start in range(0, len(images), size):
            found = intake.read_all(images[start : start + size], self._spec)
            dtype = np.float32 if of_features else np.uint8
            pixels = np.zeros((size, *_image_shape(self._spec)), dtype)
            for row, image in enumerate(found):
                if isinstance(image, UnreadableImage):
                    raise image
                pixels[row] = image
            yield self._programs.project(self._variables, pixels), len(found)

    def _classified(self, images):
        """Yield (rows, labels int [n], logits, cosines float32 [n, K]) of batches, on the host.

        Of very many classes what is kept of a batch should be less than [n, K].
        """
        done = 0
        for rows, count in self._project(images):
            answers = self._programs.classify(rows, self.prototypes, self._predictor.bias)
            yield slice(done, done + count), *(np.array(answer)[:count] for answer in answers)
            done += count


def _joined(parts):
    """Tuples of arrays as one of the arrays joined."""
    return tuple(np.concatenate(each) for each in zip(*parts, strict=True))


def load(workdir: str | os.PathLike, checkpoint: int | None = None) -> Run:
    """Open a finished or running run for use, or what `Run.save` has written.

    Args:
        workdir: of the run.
        checkpoint: the step of the state; None: the newest.

    Raises:
        UserError: there is no run or no such state, or it is damaged. A run of SCL or prototype
            softmax whose state is not the one of its end reads its training data, for the
            prototypes, and says so if they are not there.
    """
    folder = os.path.expanduser(os.fspath(workdir))
    if predictor_file.exists(folder):
        return _load_saved(folder, checkpoint)
    mesh = mesh_lib.make_mesh(jax.local_devices()[:1])
    config, state, step = trained.load_state(folder, mesh, checkpoint)
    stored = _stored_prototypes(folder, config)
    metrics, at_end = _metrics(folder, step)
    weights, bias = classifier_lib.classifier(state.variables)
    if weights is None:
        known = stored is not None and at_end
        weights = stored["prototypes"] if known else trained.TrainedRun(folder, step).weights
    if stored is not None:
        names = tuple(map(str, stored["class_names"]))
    else:
        names = _names_of_data(folder, config.num_classes)
    predictor = predictor_file.Predictor(
        config, step, metrics, names, _host(weights), None if bias is None else _host(bias)
    )
    return Run(predictor, state.variables, _Programs(config))


def _load_saved(folder, checkpoint):
    if config_file.exists(folder):
        raise UserError(
            f"{folder} holds both a run ({config_file.NAME}) and a saved classifier "
            f"({predictor_file.NAME}): move one away"
        )
    if checkpoint is not None:
        raise UserError(f"{folder} is a saved classifier: it has one state, and no checkpoints")
    predictor = predictor_file.read(folder)
    config = predictor.config
    model = model_lib.build(config, config.num_classes)
    image_shape = (config.image_size, config.image_size, config.channels)
    shapes = jax.eval_shape(lambda key: model_lib.init(model, key, image_shape), jax.random.key(0))
    arrays = predictor_file.read_variables(
        folder, {name: value.shape for name, value in _named(shapes).items()}
    )
    variables = jax.tree.unflatten(jax.tree.structure(shapes), map(jnp.asarray, arrays.values()))
    return Run(predictor, variables, _Programs(config))


def _stored_prototypes(folder, config):
    """The content of the run's prototypes.npz; None if there is none yet."""
    if not summary_lib.has_prototypes(folder):
        return None
    stored = summary_lib.read_prototypes(folder)
    wanted = (config.num_classes, architecture.output_dim(config))
    if stored["prototypes"].shape != wanted:
        raise UserError(
            f"{folder}: prototypes.npz has prototypes of shape {stored['prototypes'].shape}, the "
            f"run's are {wanted}: it is damaged or another run's"
        )
    return stored


def _metrics(folder, step):
    """({split: measures} at a step, whether the run has ended there)."""
    if os.path.lexists(os.path.join(folder, "summary.json")):
        summary = summary_lib.read_summary(folder)
        if summary["step"] == step:
            return {split: summary[split] for split in ("test", "train")}, True
    found = {"test": {}, "train": {}}
    for record in metrics_log.read_metrics(os.path.join(folder, "metrics.jsonl")):
        for name, value in record.items() if record["step"] == step else ():
            split, _, measure = name.partition("/")
            if measure and split in found:
                found[split][measure] = value
    return found, False


def _names_of_data(folder, num_classes):
    known = data_file.read(folder)
    names = known["class_names"] if known else ()
    return tuple(names) if len(names) == num_classes else tuple(map(str, range(num_classes)))


def _named(variables):
    """The leaves of a tree of dicts, by their place in it, in its order."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {"/".join(str(key.key) for key in path): value for path, value in leaves}


def _image_shape(spec):
    return spec.side, spec.side, spec.channels


def _host(array):
    return np.asarray(array, np.float32)
