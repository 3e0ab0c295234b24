//! Text, literals, iteration and indexing against MLX in Python and NumPy: the goldens of
//! `tests/parity/ergonomics.py`.

use std::path::Path;

use mlx_core::prelude::*;
use serde_json::Value;

fn cases(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/core/ergonomics")
        .join(name);
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn ints(value: &Value) -> Vec<i32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn index(parts: &Value) -> Vec<Index> {
    let limit = |value: &Value| value.as_i64().map(|v| v as i32);
    let part = |part: &Value| match part[0].as_str().unwrap() {
        "i" => Index::Int(limit(&part[1]).unwrap()),
        "s" => Index::slice(limit(&part[1]), limit(&part[2]), limit(&part[3]).unwrap()),
        "e" => Index::Ellipsis,
        "n" => Index::NewAxis,
        kind => {
            let values = Array::from_slice(&ints(&part[2]), &ints(&part[1])).unwrap();
            Index::Array(if kind == "b" {
                values.astype(Dtype::Bool).unwrap()
            } else {
                values
            })
        }
    };
    parts.as_array().unwrap().iter().map(part).collect()
}

#[test]
fn display_is_what_python_prints() {
    let cases = cases("display.json");
    assert!(cases.len() > 60);
    for case in cases {
        let text = case["data"].as_str().unwrap();
        let bytes: Vec<u8> = (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect();
        let dtype = Dtype::from_name(case["dtype"].as_str().unwrap()).unwrap();
        let x = Array::from_bytes(&bytes, &ints(&case["shape"]), dtype).unwrap();
        assert_eq!(x.to_string(), case["text"].as_str().unwrap());
        if let Some(expected) = case["two_decimals"].as_str() {
            assert_eq!(format!("{x:.2}"), expected);
        }
    }
}

#[test]
fn indices_pick_what_numpy_picks() {
    let (mut errors, mut picks) = (0, 0);
    for case in cases("selections.json") {
        let dims = ints(&case["shape"]);
        let size: i32 = dims.iter().product();
        let x = Array::arange::<i32>(0.0, f64::from(size), 1.0)
            .unwrap()
            .reshape(&dims)
            .unwrap();
        let picked = x.index(index(&case["index"]));
        if case["error"] == true {
            assert!(picked.is_err(), "{case} gave {picked:?}");
            errors += 1;
            continue;
        }
        let picked = picked.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(picked.shape(), ints(&case["picked"][0]), "{case}");
        assert_eq!(
            picked.to_vec::<i32>().unwrap(),
            ints(&case["picked"][1]),
            "{case}"
        );
        picks += 1;
    }
    assert!(
        errors >= 3 && picks >= 200,
        "{errors} errors, {picks} picks"
    );
}

#[test]
fn updates_replace_what_numpy_replaces() {
    for case in cases("updates.json") {
        let dims = ints(&case["shape"]);
        let x = Array::from_slice(&ints(&case["target"]), &dims).unwrap();
        let values =
            Array::from_slice(&ints(&case["values"][1]), &ints(&case["values"][0])).unwrap();
        let parts = index(&case["index"]);
        let result = match case["how"].as_str().unwrap() {
            "set" => x.set(parts, &values),
            "add" => x.add_at(parts, &values),
            "multiply" => x.multiply_at(parts, &values),
            "maximum" => x.maximum_at(parts, &values),
            _ => x.minimum_at(parts, &values),
        };
        let result = result.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(result.shape(), dims);
        assert_eq!(
            result.to_vec::<i32>().unwrap(),
            ints(&case["result"]),
            "{case}"
        );
        assert_eq!(
            x.to_vec::<i32>().unwrap(),
            ints(&case["target"]),
            "the original"
        );
    }
}

#[test]
fn empty_selections_have_empty_updates() {
    let x = array!([[1, 2], [3, 4]]).unwrap();
    let none = (0..0, array!([1, 0]).unwrap());
    assert_eq!(x.index(none.clone()).unwrap().shape(), [0, 2]);
    for y in [
        x.set(none.clone(), &array!(9).unwrap()),
        x.add_at(none.clone(), &array!(9).unwrap()),
        x.multiply_at(none, &array!(9).unwrap()),
    ] {
        assert_eq!(y.unwrap().to_vec::<i32>().unwrap(), [1, 2, 3, 4]);
    }
}

#[test]
fn literals_have_the_dtype_and_shape_they_show() {
    let check = |x: Array, dtype, shape: &[i32]| {
        assert_eq!((x.dtype(), x.shape()), (dtype, shape));
    };
    check(array!(1).unwrap(), Dtype::Int32, &[]);
    check(array!(true).unwrap(), Dtype::Bool, &[]);
    check(array!([-1.5]).unwrap(), Dtype::Float32, &[1]);
    check(array!([[1u8, 2], [3, 4]]).unwrap(), Dtype::Uint8, &[2, 2]);
    check(
        array!([[[0i64; 4]; 3]; 2]).unwrap(),
        Dtype::Int64,
        &[2, 3, 4],
    );
    check(array!([1.0, 2.0], f64).unwrap(), Dtype::Float64, &[2]);
    check(array!([[1], [2]], u16).unwrap(), Dtype::Uint16, &[2, 1]);
    check(array!([f16::ONE]).unwrap(), Dtype::Float16, &[1]);
    check(
        array!([Complex32::new(1.0, 2.0)]).unwrap(),
        Dtype::Complex64,
        &[1],
    );
    check(array!([[1.0f32; 3]; 0]).unwrap(), Dtype::Float32, &[0, 3]);
    let x = array!([[1, 2, 3], [4, 5, 6]]).unwrap();
    assert_eq!(x.to_vec::<i32>().unwrap(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn iterators_run_over_axes_and_elements() {
    let x = array!([[1, 2, 3], [4, 5, 6]]).unwrap();
    let rows = x.iter().unwrap();
    assert_eq!(rows.len(), 2);
    let last: Vec<i32> = rows
        .map(|row| row.unwrap().to_vec::<i32>().unwrap()[2])
        .collect();
    assert_eq!(last, [3, 6]);
    let columns: Vec<Vec<i32>> = x
        .iter_axis(-1)
        .unwrap()
        .rev()
        .map(|column| column.unwrap().to_vec().unwrap())
        .collect();
    assert_eq!(columns, [[3, 6], [2, 5], [1, 4]]);
    assert!(array!(1).unwrap().iter().is_err());
    assert!(x.iter_axis(2).is_err());

    let flipped = x
        .index((Index::slice(None, None, -1), Index::slice(None, None, 2)))
        .unwrap();
    let elements = flipped.elements::<i32>().unwrap();
    assert_eq!(elements.iter().collect::<Vec<_>>(), [4, 6, 1, 3]);
    assert_eq!(elements.iter().len(), 4);
    assert_eq!(elements.get(&[1, 1]), Some(3));
    assert_eq!(elements.get(&[2, 0]), None);
    assert_eq!(elements.get(&[0]), None);
    assert!(x.elements::<u32>().is_err());
    let empty = Array::zeros::<f32>(&[0, 2]).unwrap();
    assert_eq!(empty.elements::<f32>().unwrap().iter().next(), None);
    let bools = array!([2u8, 0]).unwrap().view(Dtype::Bool).unwrap();
    assert_eq!(
        bools.elements::<bool>().unwrap().iter().collect::<Vec<_>>(),
        [true, false]
    );
}

#[test]
fn a_held_slice_is_never_overwritten() {
    const N: i32 = 4096;
    for round in 0..20 {
        let x = Array::full::<f32>(&[N], 1.0).unwrap();
        x.eval().unwrap();
        let slice = x.to_slice::<f32>().unwrap();
        // Without the slice this chain would run in the memory of `x`.
        let y = x.add(&Array::scalar(1.0f32).unwrap()).unwrap();
        drop(x);
        let y = y.exp().unwrap().sqrt().unwrap();
        let view = y.reshape(&[2, N / 2]).unwrap();
        eval(&[&view]).unwrap();
        assert_ne!(y.as_slice::<f32>().unwrap().as_ptr(), slice.as_ptr());
        assert!(slice.iter().all(|&v| v == 1.0), "round {round}");

        // The same for a slice of a view, and for one read on another thread meanwhile.
        let part = view.to_slice::<f32>().unwrap();
        drop((y, view));
        let expected = part.to_vec();
        let reader = std::thread::spawn(move || part.iter().zip(&expected).all(|(a, b)| a == b));
        let noise = Array::full::<f32>(&[N], 5.0).unwrap().square().unwrap();
        noise.eval().unwrap();
        assert!(reader.join().unwrap());
    }
    let turned = array!([[1, 2], [3, 4]]).unwrap().transpose().unwrap();
    assert_eq!(&turned.to_slice::<i32>().unwrap()[..], [1, 3, 2, 4]);
    assert!(array!([true]).unwrap().to_slice::<bool>().is_err());
    assert!(
        Array::zeros::<f32>(&[0])
            .unwrap()
            .to_slice::<f32>()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn lent_memory_is_donated_only_when_it_may_be() {
    // A vector that was given away belongs to MLX: a result may take its place.
    let x = Array::from_vec(vec![1.0f32; 4096], &[4096]).unwrap();
    let address = x.as_slice::<f32>().unwrap().as_ptr();
    let kept = x.clone();
    let y = x.add(&Array::scalar(1.0f32).unwrap()).unwrap();
    drop(x);
    y.eval().unwrap();
    // Another handle is a use like any other.
    assert_ne!(y.as_slice::<f32>().unwrap().as_ptr(), address);
    assert_eq!(kept.as_slice::<f32>().unwrap()[4095], 1.0);
}
