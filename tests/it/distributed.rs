//! Processes that compute together: this program starts itself once for each rank.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mlx_core::distributed::{
    Backend, Group, Hosts, Init, all_gather, all_max, all_min, all_sum, clear_backends, recv,
    recv_like, send, sum_scatter,
};
use mlx_core::ops::linalg_basic::matmul;
use mlx_core::ops::reduction::mean;
use mlx_core::{Array, Dtype, Error, eval};
use mlx_transforms::{grad, value_and_grad};

/// What a process started by a test here does; absent in the test program itself.
const ROLE: &str = "MLX_TEST_DISTRIBUTED_ROLE";
const FOLDER: &str = "MLX_TEST_DISTRIBUTED_FOLDER";
const PATIENCE: Duration = Duration::from_secs(120);

/// Does nothing in the test program itself: the processes that the tests start enter here.
#[test]
fn worker() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    match role.as_str() {
        "collectives" => collectives(&join()),
        "threads" => threads(&join()),
        "lost" => lost(&join()),
        "alone" => alone(),
        "timeout" => timeout(),
        "sharded" => super::distributed_nn::sharded(&join()),
        "averaged" => super::distributed_nn::averaged(&join()),
        "trained" => super::distributed_nn::trained(&join(), &folder()),
        other => panic!("unknown role {other}"),
    }
    println!("role {role} done");
}

fn folder() -> PathBuf {
    std::env::var_os(FOLDER).unwrap().into()
}

fn join() -> Group {
    let group = Group::init(Init::default().backend(Backend::Ring)).unwrap();
    assert_eq!(group.backend(), Some(Backend::Ring));
    assert_eq!(group.rank().to_string(), std::env::var("MLX_RANK").unwrap());
    group
}

/// Starts `size` processes of one role and waits for them, but not for ever.
pub(crate) fn run(role: &str, size: usize) {
    let folder = tempfile::tempdir().unwrap();
    let hosts = Hosts::loopback(size).unwrap();
    let file = folder.path().join("hosts.json");
    hosts.write(&file).unwrap();
    let workers = (0..size)
        .map(|rank| {
            let mut command = child(role, folder.path());
            hosts.configure(&mut command, &file, rank).unwrap();
            command.spawn().unwrap()
        })
        .collect();
    finish(role, workers);
}

fn child(role: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "distributed::worker",
            "--nocapture",
            "--test-threads",
            "1",
        ])
        .env(ROLE, role)
        .env(FOLDER, folder)
        .env_remove("MLX_HOSTFILE")
        .env_remove("MLX_RANK")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn finish(role: &str, mut workers: Vec<Child>) {
    let start = Instant::now();
    while workers
        .iter_mut()
        .any(|worker| worker.try_wait().unwrap().is_none())
    {
        if start.elapsed() > PATIENCE {
            for worker in &mut workers {
                let _ = worker.kill();
            }
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for (rank, worker) in workers.into_iter().enumerate() {
        let output = worker.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && text.contains(&format!("role {role} done")),
            "rank {rank} of {role}: {} {text}",
            output.status
        );
    }
}

#[test]
fn two_processes_run_every_collective() {
    run("collectives", 2);
}

#[test]
fn three_processes_run_every_collective() {
    run("collectives", 3);
}

#[test]
fn waiting_for_a_peer_holds_up_nothing_else() {
    run("threads", 2);
}

#[test]
fn a_lost_peer_is_an_error_for_those_who_wait() {
    run("lost", 2);
}

#[test]
fn a_missing_environment_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = child("alone", folder.path());
    finish("alone", vec![worker.spawn().unwrap()]);
}

#[test]
fn peers_that_never_come_end_in_a_time_out() {
    let folder = tempfile::tempdir().unwrap();
    let hosts = Hosts::loopback(2).unwrap();
    let file = folder.path().join("hosts.json");
    hosts.write(&file).unwrap();
    let mut worker = child("timeout", folder.path());
    hosts.configure(&mut worker, &file, 0).unwrap();
    finish("timeout", vec![worker.spawn().unwrap()]);
}

fn floats(values: &[f32]) -> Array {
    Array::from_slice(values, &[values.len()]).unwrap()
}

fn values(array: mlx_core::Result<Array>) -> Vec<f32> {
    array.unwrap().to_vec::<f32>().unwrap()
}

#[allow(clippy::cast_precision_loss, reason = "small numbers")]
fn collectives(group: &Group) {
    let (rank, size) = (group.rank(), group.size());
    let (me, all) = (rank as f32, size as f32);
    let sum: f32 = (0..size).map(|r| r as f32).sum();

    let x = floats(&[me, -me, 1.0]);
    assert_eq!(values(all_sum(&x, group)), [sum, -sum, all]);
    assert_eq!(values(all_max(&x, group)), [all - 1.0, 0.0, 1.0]);
    assert_eq!(values(all_min(&x, group)), [0.0, 1.0 - all, 1.0]);
    let gathered = values(all_gather(&floats(&[me, 10.0 + me]), group));
    let expected: Vec<f32> = (0..size)
        .flat_map(|r| [r as f32, 10.0 + r as f32])
        .collect();
    assert_eq!(gathered, expected);
    assert_eq!(
        all_gather(&Array::scalar(me).unwrap(), group)
            .unwrap()
            .shape(),
        [size]
    );

    // A scalar, a large array (several packets), integers, and rows that are not dense.
    assert_eq!(
        all_sum(&Array::scalar(7i64).unwrap(), group)
            .unwrap()
            .item::<i64>()
            .unwrap(),
        7 * i64::from(size)
    );
    let large = Array::full(&[300_000], me + 1.0).unwrap();
    assert!(
        values(all_sum(&large, group))
            .iter()
            .all(|&v| v == sum + all)
    );
    let columns = Array::arange::<f32>(0.0, 6.0, 1.0)
        .unwrap()
        .reshape(&[2, 3])
        .unwrap();
    assert_eq!(
        values(all_sum(&columns.transpose().unwrap(), group)),
        [0.0, 3.0, 1.0, 4.0, 2.0, 5.0].map(|v| v * all)
    );

    let rows = Array::arange::<f32>(0.0, f64::from(2 * size), 1.0).unwrap();
    let part = values(sum_scatter(&rows, group));
    assert_eq!(part, [2.0 * me * all, (2.0 * me + 1.0) * all]);
    assert!(
        sum_scatter(&Array::ones::<f32>(&[2 * size + 1]).unwrap(), group).is_err() || size == 1
    );

    // Around the ring.
    let (next, previous) = ((rank + 1) % size, (rank + size - 1) % size);
    let sent = send(&floats(&[me, 100.0]), next, group).unwrap();
    let received = recv(&[2], Dtype::Float32, previous, group).unwrap();
    eval(&[&sent, &received]).unwrap();
    assert_eq!(received.to_vec::<f32>().unwrap(), [previous as f32, 100.0]);
    let back = send(&received, previous, group).unwrap();
    let home = recv_like(&x.split_at(&[2], 0).unwrap()[0], next, group).unwrap();
    eval(&[&back, &home]).unwrap();
    assert_eq!(home.to_vec::<f32>().unwrap(), [me, 100.0]);
    assert!(matches!(
        send(&x, size, group),
        Err(Error::OutOfBounds { .. })
    ));
    assert!(send(&x, rank, group).is_err());
    assert!(group.split(0, None).is_err());

    // Several in one graph, with work between and after them.
    let chained = all_max(&(all_sum(&x, group).unwrap() * 2.0).unwrap(), group).unwrap();
    assert_eq!(
        values(chained + floats(&[1.0, 1.0, 1.0])),
        [2.0 * sum + 1.0, 1.0 - 2.0 * sum, 2.0 * all + 1.0]
    );

    // A derivative through the sum: of what this process adds to it.
    let through = grad(
        {
            let group = group.clone();
            move |xs: &[Array]| Ok(vec![all_sum(&xs[0].square()?, &group)?.sum(false)?])
        },
        &[0],
    )
    .unwrap();
    let slope = through(&[floats(&[3.0])]).unwrap();
    assert_eq!(slope[0].to_vec::<f32>().unwrap(), [6.0]);

    training_step(group);
}

/// Linear regression: gradients of shares of a batch, averaged, against those of the whole batch.
fn training_step(group: &Group) {
    let (rank, size) = (group.rank(), group.size());
    let inputs = Array::arange::<f32>(0.0, f64::from(size * 4 * 3), 1.0).unwrap();
    let inputs = (inputs.reshape(&[size * 4, 3]).unwrap() / 10.0).unwrap();
    let targets = inputs.sum_axes(&[1], true).unwrap().sin().unwrap();
    let weights = Array::from_slice(&[0.1f32, -0.2, 0.3], &[3, 1]).unwrap();
    let step = value_and_grad(
        |xs: &[Array]| {
            let error = (matmul(&xs[1], &xs[0])? - &xs[2])?;
            Ok(vec![mean(&error.square()?, false)?])
        },
        &[0],
    )
    .unwrap();
    let share = |array: &Array| {
        let width = array.shape()[1];
        array.slice(&[rank * 4, 0], &[rank * 4 + 4, width]).unwrap()
    };
    let (_, local) = step(&[weights.clone(), share(&inputs), share(&targets)]).unwrap();
    let averaged = (all_sum(&local[0], group).unwrap() / f64::from(size)).unwrap();
    let updated = (&weights - &(averaged * 0.1).unwrap()).unwrap();

    let (_, whole) = step(&[weights.clone(), inputs, targets]).unwrap();
    let expected = (&weights - &(&whole[0] * 0.1).unwrap()).unwrap();
    assert!(
        updated
            .allclose(&expected, 1e-5, 1e-6)
            .unwrap()
            .item::<bool>()
            .unwrap(),
        "{updated} {expected}"
    );
}

/// One thread waits for rank 0, which sends only once another thread of this process has computed.
fn threads(group: &Group) {
    let marker = folder().join("computed");
    if group.rank() == 0 {
        let start = Instant::now();
        while !marker.exists() {
            assert!(start.elapsed() < PATIENCE, "rank 1 never computed");
            std::thread::sleep(Duration::from_millis(5));
        }
        send(&floats(&[5.0]), 1, group).unwrap().eval().unwrap();
        return;
    }
    let waiting = (recv(&[1], Dtype::Float32, 0, group).unwrap() * 2.0).unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| waiting.to_vec::<f32>().unwrap());
        let second = scope.spawn(|| waiting.item::<f32>().unwrap());
        // Both have time to start waiting.
        std::thread::sleep(Duration::from_millis(300));
        let x = Array::ones::<f32>(&[64, 64]).unwrap();
        let y = matmul(&x, &x).unwrap().sum(false).unwrap();
        assert_eq!(y.item::<f32>().unwrap(), 64.0 * 64.0 * 64.0);
        std::fs::write(&marker, "").unwrap();
        assert_eq!(first.join().unwrap(), [10.0]);
        assert_eq!(second.join().unwrap(), 10.0);
    });
}

/// Rank 1 leaves; rank 0 learns of it, again and again, and goes on by itself.
fn lost(group: &Group) {
    assert_eq!(values(all_sum(&floats(&[1.0]), group)), [2.0]);
    if group.rank() == 1 {
        return;
    }
    let received = recv(&[1000], Dtype::Float32, 1, group).unwrap();
    let doubled = (&received * 2.0).unwrap();
    assert!(doubled.to_vec::<f32>().is_err());
    for array in [&received, &doubled, &received] {
        assert!(array.eval().is_err());
    }
    assert!(all_sum(&floats(&[1.0]), group).unwrap().eval().is_err());
    assert_eq!(floats(&[2.0]).square().unwrap().item::<f32>().unwrap(), 4.0);
    clear_backends().unwrap();
}

fn alone() {
    let ring = Init::default().backend(Backend::Ring);
    let error = Group::init(ring).unwrap_err();
    assert!(matches!(error, Error::Unsupported(_)), "{error}");
    assert!(error.to_string().contains("MLX_HOSTFILE"), "{error}");
    assert_eq!(Group::init(ring.required(false)).unwrap().size(), 1);
    assert!(Backend::Ring.is_available());
    if !Backend::Nccl.is_available() {
        let error = Group::init(Init::default().backend(Backend::Nccl)).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
    }
    let any = Group::init(Init::default().required(false)).unwrap();
    assert_eq!(values(all_sum(&floats(&[3.0]), &any)), [3.0]);
}

fn timeout() {
    let start = Instant::now();
    let options = Init::default()
        .backend(Backend::Ring)
        .timeout(Duration::from_millis(500));
    assert!(matches!(Group::init(options), Err(Error::Backend(_))));
    assert!(matches!(Group::init(options), Err(Error::Backend(_))));
    assert!(clear_backends().is_err());
    assert!(start.elapsed() < Duration::from_secs(20));
    // Everything else goes on.
    assert_eq!(floats(&[2.0]).square().unwrap().item::<f32>().unwrap(), 4.0);
}
