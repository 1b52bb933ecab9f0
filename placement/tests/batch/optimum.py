#!/usr/bin/env python3
"""The least cost of the instances of optimum.rs, by real solvers: assignments by OR-tools and SciPy, which must agree;
devices that share memory by HiGHS, with the bound that it proves (a gap of at most 0.1 % is left).

    pip install ortools scipy numpy                 # 9.15 and 1.17 made the figures
    mkdir instances
    INSTANCES=instances cargo test -p nightshift-placement --test batch -- --ignored write_instances
    python3 placement/tests/batch/optimum.py instances > placement/tests/batch/optimum.txt
"""

import pathlib
import sys

import numpy as np
import scipy.optimize as so
import scipy.sparse as sp
from ortools.graph.python import linear_sum_assignment


def read(path):
    devices, tasks = [], []
    for line in path.read_text().splitlines():
        kind, *words = line.split()
        if kind == "device":
            devices.append((int(words[0]), int(words[1])))
        else:
            pairs = (word.split(":") for word in words[1:])
            tasks.append((int(words[0]), [(int(at), float(cost)) for at, cost in pairs]))
    return devices, tasks


def assignment(devices, tasks):
    matrix = np.full((len(tasks), len(devices)), np.inf)
    for row, (_, costs) in enumerate(tasks):
        for at, cost in costs:
            matrix[row, at] = cost
    rows, columns = so.linear_sum_assignment(np.where(np.isinf(matrix), 1e6, matrix))
    least = matrix[rows, columns].sum()
    # OR-tools wants whole numbers, and as many rows as columns: rows that cost nothing take what is left over.
    solver, scale = linear_sum_assignment.SimpleLinearSumAssignment(), 1e12
    for row in range(len(devices)):
        for at in range(len(devices)):
            cost = matrix[row, at] if row < len(tasks) else 0
            if not np.isinf(cost):
                solver.add_arc_with_cost(row, at, round(cost * scale))
    assert solver.solve() == solver.OPTIMAL
    assert abs(solver.optimal_cost() / scale / least - 1) < 1e-6, (solver.optimal_cost() / scale, least)
    return least


def memory(devices, tasks):
    pairs = [(row, at, cost) for row, (_, costs) in enumerate(tasks) for at, cost in costs]
    rows, columns, costs = (np.array(values) for values in zip(*pairs))
    number, needs = np.arange(len(pairs)), np.array([need for need, _ in tasks])
    one = sp.csr_matrix((np.ones(len(pairs)), (rows, number)))
    shape = (len(devices), len(pairs))
    held = sp.csr_matrix((needs[rows] / 2**30, (columns, number)), shape)
    count = sp.csr_matrix((np.ones(len(pairs)), (columns, number)), shape)
    limits = [
        so.LinearConstraint(one, 1, 1),
        so.LinearConstraint(held, -np.inf, [free / 2**30 for free, _ in devices]),
        so.LinearConstraint(count, -np.inf, [slots for _, slots in devices]),
    ]
    scale = 1 / costs.mean()
    found = so.milp(costs * scale, constraints=limits, integrality=1, bounds=(0, 1), options={"mip_rel_gap": 1e-3, "time_limit": 300})
    return found.mip_dual_bound / scale


def main(folder):
    print("# By optimum.py: instance, tasks, sum of all costs in points, the least total or a bound below it.")
    for path in sorted(pathlib.Path(folder).iterdir()):
        devices, tasks = read(path)
        total = sum(cost for _, costs in tasks for _, cost in costs)
        least = (assignment if path.name.startswith("assignment") else memory)(devices, tasks)
        print(path.name, len(tasks), repr(float(total)), repr(float(least)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
