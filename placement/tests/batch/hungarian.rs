//! The least cost of an assignment, exactly: each row gets a column of its own. Shortest augmenting paths with potentials
//! (Kuhn 1955, Munkres 1957; Jonker and Volgenant 1987), written for the tests and the benchmark alone.

/// The least sum, or `None` if some row gets none; `cost` is `None` where a row cannot have a column.
pub fn least(rows: usize, columns: usize, cost: &dyn Fn(usize, usize) -> Option<f64>) -> Option<f64> {
    let matrix: Vec<f64> =
        (0..rows * columns).map(|at| cost(at / columns, at % columns).unwrap_or(f64::INFINITY)).collect();
    let mut potential = vec![0.0; columns];
    let mut row_of: Vec<Option<usize>> = vec![None; columns];
    for row in 0..rows {
        augment(&matrix, columns, row, &mut potential, &mut row_of)?;
    }
    let pairs = row_of.iter().enumerate().filter_map(|(column, row)| row.map(|row| matrix[row * columns + column]));
    Some(pairs.sum())
}

/// One row more: the shortest way from it to a column without a row, each way through a column to its row.
fn augment(
    matrix: &[f64],
    columns: usize,
    row: usize,
    potential: &mut [f64],
    row_of: &mut [Option<usize>],
) -> Option<()> {
    let mut distance = vec![f64::INFINITY; columns];
    let mut before: Vec<Option<usize>> = vec![None; columns];
    let mut done = vec![false; columns];
    let mut order = Vec::new();
    let (mut from, mut way, mut via) = (row, 0.0, None);
    let last = loop {
        // What this row's own column costs it, reduced: the rows' potentials follow from the columns'.
        let own = via.map_or(0.0, |column: usize| matrix[from * columns + column] - potential[column]);
        let mut nearest: Option<usize> = None;
        for column in (0..columns).filter(|column| !done[*column]) {
            let there = way + matrix[from * columns + column] - potential[column] - own;
            if there < distance[column] {
                (distance[column], before[column]) = (there, via);
            }
            if distance[column] < f64::INFINITY && nearest.is_none_or(|least| distance[column] < distance[least]) {
                nearest = Some(column);
            }
        }
        let column = nearest?;
        done[column] = true;
        let Some(next) = row_of[column] else { break column };
        order.push(column);
        (from, way, via) = (next, distance[column], Some(column));
    };
    for column in order {
        potential[column] += distance[column] - distance[last];
    }
    let mut column = last;
    while let Some(previous) = before[column] {
        row_of[column] = row_of[previous];
        column = previous;
    }
    row_of[column] = Some(row);
    Some(())
}
