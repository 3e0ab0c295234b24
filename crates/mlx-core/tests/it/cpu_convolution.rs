//! Convolutions with our own CPU kernels against plain loops.
#![cfg(target_os = "linux")]

use mlx_core::ops::conv::{ConvOptions, conv_general};
use mlx_core::{Array, Dtype};

use crate::cpu_kernels::{assert_close, f32s, noises, tolerance};

/// One axis of a convolution.
#[derive(Clone, Copy, Debug)]
struct Axis {
    size: i32,
    taps: i32,
    stride: i32,
    padding: (i32, i32),
    dilation: i32,
    input_dilation: i32,
}

const PLAIN: Axis = Axis {
    size: 1,
    taps: 1,
    stride: 1,
    padding: (0, 0),
    dilation: 1,
    input_dilation: 1,
};

impl Axis {
    fn out(&self) -> i32 {
        let input = 1 + self.input_dilation * (self.size - 1) + self.padding.0 + self.padding.1;
        (input - 1 - self.dilation * (self.taps - 1)) / self.stride + 1
    }

    /// The element that tap `t` of output `o` reads.
    fn source(&self, o: i32, t: i32, flip: bool) -> Option<i32> {
        let t = if flip { self.taps - 1 - t } else { t };
        let at = o * self.stride + t * self.dilation - self.padding.0;
        (at >= 0 && at % self.input_dilation == 0 && at / self.input_dilation < self.size)
            .then_some(at / self.input_dilation)
    }
}

#[derive(Clone, Debug)]
struct Problem<const D: usize> {
    axes: [Axis; D],
    batch: i32,
    channels: i32,
    outputs: i32,
    groups: i32,
    flip: bool,
}

/// All positions of a box, the last axis fastest.
fn positions(sizes: &[i32]) -> Vec<Vec<i32>> {
    sizes.iter().fold(vec![vec![]], |all, &size| {
        all.iter()
            .flat_map(|at| {
                (0..size).map(move |i| {
                    let mut at = at.clone();
                    at.push(i);
                    at
                })
            })
            .collect()
    })
}

impl<const D: usize> Problem<D> {
    fn shape(&self, first: i32, size: impl Fn(&Axis) -> i32, last: i32) -> Vec<i32> {
        let mut shape = vec![first];
        shape.extend(self.axes.iter().map(size));
        shape.push(last);
        shape
    }

    fn expected(&self, x: &[f32], w: &[f32]) -> Vec<f32> {
        let (channels, share) = (self.channels / self.groups, self.outputs / self.groups);
        let at = |position: &[i32], sizes: &[i32]| {
            position.iter().zip(sizes).fold(0, |at, (i, n)| at * n + i)
        };
        let sizes = self.axes.map(|axis| axis.size);
        let taps = positions(&self.axes.map(|axis| axis.taps));
        let outs = positions(&self.axes.map(|axis| axis.out()));
        let mut result = Vec::new();
        for image in 0..self.batch {
            for out in &outs {
                for o in 0..self.outputs {
                    let mut sum = 0f64;
                    for (tap_index, tap) in taps.iter().enumerate() {
                        let from: Option<Vec<i32>> = self
                            .axes
                            .iter()
                            .zip(out.iter().zip(tap))
                            .map(|(axis, (&o, &t))| axis.source(o, t, self.flip))
                            .collect();
                        let Some(from) = from else { continue };
                        let pixel = image * sizes.iter().product::<i32>() + at(&from, &sizes);
                        for c in 0..channels {
                            let channel = o / share * channels + c;
                            let tap_at = o * taps.len() as i32 + tap_index as i32;
                            let value = x[(pixel * self.channels + channel) as usize];
                            let weight = w[(tap_at * channels + c) as usize];
                            sum += f64::from(value) * f64::from(weight);
                        }
                    }
                    result.push(sum as f32);
                }
            }
        }
        result
    }

    fn check(&self, seed: u64) {
        for dtype in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
            let make = |seed, shape: &[i32]| {
                let count = shape.iter().product::<i32>() as usize;
                Array::from_slice(&noises(seed, count), shape)
                    .unwrap()
                    .astype(dtype)
                    .unwrap()
            };
            let x_shape = self.shape(self.batch, |axis| axis.size, self.channels);
            let w_shape = self.shape(self.outputs, |axis| axis.taps, self.channels / self.groups);
            let w = make(seed + 1, &w_shape);
            let mut reversed = x_shape.clone();
            reversed.reverse();
            let options = ConvOptions::<D>::default()
                .stride(self.axes.map(|axis| axis.stride))
                .padding_sides(self.axes.map(|axis| axis.padding))
                .dilation(self.axes.map(|axis| axis.dilation))
                .input_dilation(self.axes.map(|axis| axis.input_dilation))
                .groups(self.groups)
                .flip(self.flip);
            // In order, and as a view with all axes swapped.
            for x in [
                make(seed, &x_shape),
                make(seed, &reversed).transpose().unwrap(),
            ] {
                let ours = conv_general(&x, &w, options).unwrap();
                let shape = self.shape(self.batch, Axis::out, self.outputs);
                assert_eq!(ours.shape(), shape, "{self:?}");
                assert_eq!(ours.dtype(), dtype, "{self:?}");
                let want = self.expected(&f32s(&x), &f32s(&w));
                let want = Array::from_slice(&want, &shape).unwrap();
                assert_close(
                    &ours,
                    &want,
                    tolerance(dtype),
                    &format!("{self:?}, {dtype:?}"),
                );
            }
        }
    }
}

#[test]
fn convolutions_equal_plain_loops() {
    let axis = |size, taps| Axis {
        size,
        taps,
        ..PLAIN
    };
    // Channels and outputs that end inside a panel, and patches longer than a packed block.
    for (groups, channels, outputs) in [(1, 3, 5), (1, 96, 70), (2, 8, 20), (6, 6, 6), (3, 6, 3)] {
        let problem = |axes: [Axis; 1], flip| Problem {
            axes,
            batch: 2,
            channels,
            outputs,
            groups,
            flip,
        };
        problem([axis(30, 3)], false).check(1);
        problem([axis(7, 7)], true).check(2);
        let moved = Axis {
            stride: 2,
            padding: (2, 1),
            dilation: 3,
            ..axis(23, 4)
        };
        problem([moved], false).check(3);
        let spread = Axis {
            input_dilation: 2,
            padding: (3, 4),
            ..axis(11, 3)
        };
        problem([spread], true).check(4);
        // More padding than input.
        problem(
            [Axis {
                padding: (9, 0),
                ..axis(3, 4)
            }],
            false,
        )
        .check(5);
    }
    for (groups, channels, outputs) in [(1, 3, 40), (1, 33, 9), (4, 4, 4), (2, 6, 16)] {
        let first = Axis {
            stride: 2,
            padding: (1, 2),
            ..axis(13, 3)
        };
        let second = Axis {
            padding: (2, 0),
            dilation: 2,
            ..axis(9, 2)
        };
        for flip in [false, true] {
            Problem {
                axes: [first, second],
                batch: 2,
                channels,
                outputs,
                groups,
                flip,
            }
            .check(6);
        }
        // Patches without overlap, as image encoders take them.
        let patch = Axis {
            stride: 4,
            ..axis(16, 4)
        };
        Problem {
            axes: [patch, patch],
            batch: 1,
            channels,
            outputs,
            groups,
            flip: false,
        }
        .check(7);
    }
    let deep = Axis {
        padding: (1, 1),
        ..axis(5, 3)
    };
    Problem {
        axes: [axis(4, 2), deep, deep],
        batch: 2,
        channels: 5,
        outputs: 6,
        groups: 1,
        flip: false,
    }
    .check(8);
}

#[test]
fn convolutions_that_do_not_fit_fail_as_before() {
    let x = Array::zeros::<f32>(&[1, 8, 4]).unwrap();
    let w = Array::zeros::<f32>(&[2, 3, 5]).unwrap();
    let options = ConvOptions::<1>::default();
    assert!(conv_general(&x, &w, options).is_err());
    let w = Array::zeros::<f32>(&[2, 9, 4]).unwrap();
    assert!(conv_general(&x, &w, options).is_err());
    let none = Array::zeros::<f32>(&[0, 8, 4]).unwrap();
    let w = Array::zeros::<f32>(&[2, 3, 4]).unwrap();
    assert_eq!(conv_general(&none, &w, options).unwrap().shape(), [0, 6, 2]);
}
