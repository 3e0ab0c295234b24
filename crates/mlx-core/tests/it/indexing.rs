//! NumPy's indexing rules; the expected values are NumPy's.

use mlx_core::{Array, Ellipsis, Index, NewAxis};

fn cube() -> Array {
    Array::arange::<i32>(0.0, 24.0, 1.0)
        .unwrap()
        .reshape(&[2, 3, 4])
        .unwrap()
}

fn ints(values: &[i32]) -> Array {
    Array::from_slice(values, &[values.len()]).unwrap()
}

#[test]
fn integers_ranges_and_new_axes() {
    let x = cube();
    assert_eq!(x.index((1, 2, 3)).unwrap().item::<i32>().unwrap(), 23);
    assert_eq!(x.index(-1).unwrap().shape(), [3, 4]);
    assert_eq!(x.index((.., 1..=2, NewAxis, 0)).unwrap().shape(), [2, 2, 1]);
    assert_eq!(x.index((Ellipsis, -2..)).unwrap().shape(), [2, 3, 2]);
    assert_eq!(
        x.index((0, .., ..-1)).unwrap().to_vec::<i32>().unwrap()[..3],
        [0, 1, 2]
    );
    assert_eq!(x.index((.., 5..9)).unwrap().shape(), [2, 0, 4]);
}

#[test]
fn steps_run_both_ways() {
    let x = ints(&[0, 1, 2, 3, 4, 5, 6]);
    let at = |start: Option<i32>, stop: Option<i32>, step| {
        x.index(Index::slice(start, stop, step))
            .unwrap()
            .to_vec::<i32>()
            .unwrap()
    };
    assert_eq!(at(None, None, 3), [0, 3, 6]);
    assert_eq!(at(None, None, -3), [6, 3, 0]);
    assert_eq!(at(Some(5), Some(1), -2), [5, 3]);
    assert_eq!(at(Some(-2), None, -4), [5, 1]);
    assert_eq!(at(Some(100), Some(-100), -1), [6, 5, 4, 3, 2, 1, 0]);
    assert_eq!(at(Some(2), Some(5), -1), Vec::<i32>::new());
    assert_eq!(at(Some(5), Some(2), 1), Vec::<i32>::new());
}

#[test]
fn index_arrays_take_the_place_numpy_gives_them() {
    let x = cube();
    let (i, j) = (ints(&[0, 1]), ints(&[2, 0]));
    assert_eq!(x.index((&i, &j)).unwrap().shape(), [2, 4]);
    assert_eq!(
        x.index((&i, &j)).unwrap().to_vec::<i32>().unwrap(),
        [8, 9, 10, 11, 12, 13, 14, 15]
    );
    // Apart from each other: their axis comes first.
    assert_eq!(x.index((&i, .., &j)).unwrap().shape(), [2, 3]);
    assert_eq!(
        x.index((&i, .., &j)).unwrap().to_vec::<i32>().unwrap(),
        [2, 6, 10, 12, 16, 20]
    );
    // In the middle: their axes stay there.
    let grid = ints(&[0, 1, 2, 0]).reshape(&[2, 2]).unwrap();
    assert_eq!(x.index((.., &grid)).unwrap().shape(), [2, 2, 2, 4]);
    assert_eq!(
        x.index((1.., &j, ..2)).unwrap().to_vec::<i32>().unwrap(),
        [20, 21, 12, 13]
    );
    assert_eq!(
        x.index((1, &j)).unwrap().to_vec::<i32>().unwrap()[..4],
        [20, 21, 22, 23]
    );
}

#[test]
fn masks_pick_what_is_true() {
    let x = cube();
    let even = x
        .index((0, .., 0))
        .unwrap()
        .remainder(&Array::scalar(8).unwrap())
        .unwrap();
    let mask = even.equal(&Array::scalar(0).unwrap()).unwrap();
    assert_eq!(x.index((0, &mask)).unwrap().shape(), [2, 4]);
    let all = x.greater_equal(&Array::scalar(22).unwrap()).unwrap();
    assert_eq!(x.index(&all).unwrap().to_vec::<i32>().unwrap(), [22, 23]);
    assert!(x.index(&mask).is_err(), "a mask of 3 on an axis of 2");
}

#[test]
fn updates_are_functional_and_broadcast() {
    let x = Array::zeros::<i32>(&[2, 3]).unwrap();
    let y = x.set((1, ..), &ints(&[1, 2, 3])).unwrap();
    assert_eq!(y.to_vec::<i32>().unwrap(), [0, 0, 0, 1, 2, 3]);
    assert_eq!(x.to_vec::<i32>().unwrap(), [0; 6]);
    let y = y
        .set(
            (.., Index::slice(None, None, -2)),
            &Array::scalar(9).unwrap(),
        )
        .unwrap();
    assert_eq!(y.to_vec::<i32>().unwrap(), [9, 0, 9, 9, 2, 9]);
    let y = x
        .add_at((ints(&[0, 0, 1]), 2), &Array::scalar(5).unwrap())
        .unwrap();
    assert_eq!(y.to_vec::<i32>().unwrap(), [0, 0, 10, 0, 0, 5]);
    let y = x.set((.., ints(&[2, 0])), &ints(&[7, 8])).unwrap();
    assert_eq!(y.to_vec::<i32>().unwrap(), [8, 0, 7, 8, 0, 7]);
    let mask = y.greater(&Array::scalar(0).unwrap()).unwrap();
    let z = y.minimum_at(&mask, &Array::scalar(7).unwrap()).unwrap();
    assert_eq!(z.to_vec::<i32>().unwrap(), [7, 0, 7, 7, 0, 7]);
    let z = z.maximum_at(0, &Array::scalar(3).unwrap()).unwrap();
    assert_eq!(z.to_vec::<i32>().unwrap(), [7, 3, 7, 7, 0, 7]);
    let z = z.multiply_at((1, 1..), &Array::scalar(2).unwrap()).unwrap();
    assert_eq!(z.to_vec::<i32>().unwrap(), [7, 3, 7, 7, 0, 14]);
}

#[test]
fn wrong_indices_are_errors() {
    let x = cube();
    assert!(x.index((0, 0, 0, 0)).is_err());
    assert!(x.index((Ellipsis, Ellipsis)).is_err());
    assert!(x.index(2).is_err());
    assert!(x.index((.., ints(&[3]))).is_err());
    assert!(x.index(Index::slice(0, 2, 0)).is_err());
    assert!(x.set(0, &ints(&[1, 2, 3])).is_err());
}

#[test]
fn nonzero_lists_coordinates() {
    let x = Array::from_slice(&[0, 3, 0, 4], &[2, 2]).unwrap();
    let at = x.nonzero().unwrap();
    assert_eq!(at[0].to_vec::<i32>().unwrap(), [0, 1]);
    assert_eq!(at[1].to_vec::<i32>().unwrap(), [1, 1]);
}
