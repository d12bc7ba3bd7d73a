"""The measures of Neural Collapse in float64 NumPy, written down from their definitions.

By loops over classes, pairs and rows. The one thing that is not in the definitions: what is
smaller than 16 float32 roundings of the size of what is compared counts as zero.
"""

import numpy as np

ROUNDING = 16 * 2.0**-23


def unit(x):
    x = np.asarray(x, np.float64)
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.where(length > 0, x / np.where(length > 0, length, 1), 0)


def erank(matrix):
    """exp(-sum p log p) of the normalized singular values; 0 of the zero matrix."""
    values = np.linalg.svd(matrix, compute_uv=False)
    if not values.any():
        return 0.0
    p = values / values.sum()
    p = p[p > 1e-17]
    return float(np.exp(-np.sum(p * np.log(p))))


def covariance(rows):
    """Covariance of rows, with 1/n; zero for rows that differ by rounding alone."""
    centered = rows - rows.mean(axis=0)
    if np.sum(centered**2) <= ROUNDING**2 * np.sum(rows**2):
        centered = np.zeros_like(centered)
    return centered.T @ centered / len(rows)


def ratio(a, b):
    if b == 0:
        return 0.0 if a == 0 else np.inf
    return a / b


def matrix_entropy(gram):
    eigenvalues = np.linalg.eigvalsh(gram / len(gram))
    return -sum(v * np.log(v) for v in eigenvalues if v > 1e-12)


def mir_and_hdr(first, second):
    """Matrix mutual information ratio and entropy difference ratio of two Gram matrices."""
    a, b, both = matrix_entropy(first), matrix_entropy(second), matrix_entropy(first * second)
    least, most = min(a, b), max(a, b)
    if least < 1e-12:
        return 0.0, ratio(abs(a - b) if most > 1e-12 else 0.0, most if most > 1e-12 else 0.0)
    return (a + b - both) / least, abs(a - b) / most


def mir_at_collapse(classes):
    if classes <= 2:
        return 0.0
    n = classes - 1
    return 1 / n + (n - 1) * np.log(n - 1) / (n * np.log(n)) if n > 1 else 0.0


def pairs(classes):
    return [(a, b) for a in range(classes) for b in range(classes) if a != b]


def direction(mean):
    return unit(mean) if np.linalg.norm(mean) > ROUNDING else np.zeros_like(mean)


def neural_collapse(features, labels, prototypes=None, *, num_classes, bias=None, where=None):
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    keep = (labels >= 0) & (labels < num_classes)
    if where is not None:
        keep &= np.asarray(where)
    rows = [features[keep & (labels == c)] for c in range(num_classes)]
    counted = [c for c in range(num_classes) if len(rows[c])]
    rows = [rows[c] for c in counted]
    units = [unit(r) for r in rows]
    several = [i for i, r in enumerate(rows) if len(r) > 1]
    classes = len(rows)
    out = {"classes_counted": float(classes)}

    intra = [erank(covariance(units[i])) for i in several]
    out["erank_intra"] = np.mean(intra) if intra else np.nan
    total, number = 0.0, 0
    for i in several:
        for u in units[i]:
            total += np.sum((units[i] - u) ** 2)
        number += len(units[i]) * (len(units[i]) - 1)
    out["instance_alignment"] = total / number if number else np.nan

    means = np.array([r.mean(axis=0) for r in rows]).reshape(classes, -1)
    unit_means = np.array([u.mean(axis=0) for u in units]).reshape(classes, -1)
    out |= _between_classes(rows, means, unit_means, several)
    if prototypes is not None:
        w = np.asarray(prototypes, np.float64)[counted]
        b = np.zeros(classes) if bias is None else np.asarray(bias, np.float64)[counted]
        out |= _with_prototypes(rows, units, means, unit_means, w, b)
    return out


def _between_classes(rows, means, unit_means, several):
    classes = len(means)
    keys = "erank_inter nc1 nc2_equinorm nc2_equiangular cdnv cosine_means_mean cosine_means_std"
    if classes < 2:
        return dict.fromkeys(keys.split(), np.nan)
    out = {"erank_inter": erank(covariance(unit_means))}

    spread = {i: np.trace(covariance(rows[i])) for i in several}
    within = sum(len(rows[i]) * covariance(rows[i]) for i in several)
    between = covariance(means)
    if not several:
        out["nc1"] = np.nan
    elif not between.any():
        out["nc1"] = ratio(sum(spread.values()), 0.0)
    else:
        within = within / sum(len(rows[i]) for i in several)
        inverse = np.linalg.pinv(between, rcond=1e-10, hermitian=True)
        out["nc1"] = np.trace(within @ inverse) / classes

    centered = means - means.mean(axis=0)
    size = max(np.linalg.norm(m) for m in means)
    for i in range(classes):
        if np.linalg.norm(centered[i]) <= ROUNDING * size:
            centered[i] = 0
    lengths = np.linalg.norm(centered, axis=1)
    out["nc2_equinorm"] = ratio(lengths.std(), lengths.mean())
    ways = unit(centered)
    out["nc2_equiangular"] = np.mean(
        [abs(ways[a] @ ways[b] + 1 / (classes - 1)) for a, b in pairs(classes)]
    )
    terms = []
    for a, b in pairs(classes):
        if a in spread and b in spread:
            distance = np.sum((means[a] - means[b]) ** 2)
            if distance <= ROUNDING**2 * (means[a] @ means[a] + means[b] @ means[b]):
                distance = 0.0
            terms.append(ratio(spread[a] + spread[b], 2 * distance))
    out["cdnv"] = np.mean(terms) if terms else np.nan
    ways = [direction(m) for m in unit_means]
    cosines = [ways[a] @ ways[b] for a, b in pairs(classes)]
    return out | {"cosine_means_mean": np.mean(cosines), "cosine_means_std": np.std(cosines)}


def _with_prototypes(rows, units, means, unit_means, w, b):
    classes, ways = len(w), unit(w)
    out = {}
    ways_of_means = np.array([direction(m) for m in unit_means]).reshape(classes, -1)
    distances = [np.sum((u - ways[i]) ** 2) for i in range(classes) for u in units[i]]
    out["weight_alignment"] = np.mean(distances) if distances else np.nan
    each = [np.sum((ways_of_means[i] - ways[i]) ** 2) for i in range(classes)]
    out["class_alignment"] = np.mean(each) if each else np.nan
    disagree = []
    for own in rows:
        for x in own:
            nearest = np.argmin([np.linalg.norm(x - m) for m in means])
            disagree.append(nearest != np.argmax([x @ w[i] + b[i] for i in range(classes)]))
    out["nc4"] = np.mean(disagree) if disagree else np.nan

    keys = "erank_weights mir mir_gap mir_centered hdr hdr_centered nc3 "
    keys += "cosine_prototypes_mean cosine_prototypes_std"
    if classes < 2:
        return out | dict.fromkeys(keys.split(), np.nan)
    out["erank_weights"] = erank(covariance(ways))
    centre = direction(unit_means.mean(axis=0))
    shifted = ways_of_means - centre
    shifted[np.linalg.norm(shifted, axis=1) <= ROUNDING] = 0
    shifted = unit(shifted)
    out["mir"], out["hdr"] = mir_and_hdr(ways @ ways.T, shifted @ shifted.T)
    out["mir_gap"] = out["mir"] - mir_at_collapse(classes)
    inner = ways - ways.mean(axis=0)
    inner[np.linalg.norm(inner, axis=1) <= ROUNDING] = 0
    inner = unit(inner)
    out["mir_centered"], out["hdr_centered"] = mir_and_hdr(inner @ inner.T, shifted @ shifted.T)
    centered = means - means.mean(axis=0)
    if np.linalg.norm(centered) <= ROUNDING * np.linalg.norm(means):
        centered = np.zeros_like(centered)
    out["nc3"] = np.linalg.norm(unit(w.ravel()) - unit(centered.ravel()))
    cosines = [ways[a] @ ways[b] for a, b in pairs(classes)]
    out["cosine_prototypes_mean"], out["cosine_prototypes_std"] = np.mean(cosines), np.std(cosines)
    return out
