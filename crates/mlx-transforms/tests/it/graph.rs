//! Graphs as text.

use mlx_core::{Array, Result, array};
use mlx_transforms::{Graph, export_to_dot, print_graph};

fn pair() -> Result<(Array, Array, Array)> {
    let x = array!([[1.0, 2.0], [3.0, 4.0]])?;
    let y = x.exp()?;
    let z = (&y + &x)?;
    Ok((x, y, z))
}

#[test]
fn text_lists_operations_in_order() -> Result<()> {
    let (x, y, z) = pair()?;
    let mut out = Vec::new();
    print_graph(&mut out, &[&z]).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "Inputs: A [(2,2), float32]\nOutputs: B [(2,2), float32]\n\
         Exp A [(2,2), float32] -> C [(2,2), float32]\n\
         Add C [(2,2), float32], A [(2,2), float32] -> B [(2,2), float32]\n"
    );
    let named = Graph::new(&[&z, &y])
        .name(&x, "x")
        .name(&y, "e\0y")
        .name(&z, "z");
    assert!(
        named
            .text()?
            .starts_with("Inputs: x [(2,2), float32]\nOutputs: z [(2,2), float32], ey ")
    );
    assert!(!z.is_available(), "nothing was evaluated");
    z.eval()?;
    assert_eq!(
        Graph::new(&[&z]).text()?,
        "Inputs: A [(2,2), float32]\nOutputs: A [(2,2), float32]\n"
    );
    assert_eq!(Graph::new(&[]).text()?, "Inputs: \nOutputs: \n");
    Ok(())
}

#[test]
fn dot_has_a_box_for_each_operation() -> Result<()> {
    let (x, _, z) = pair()?;
    let mut out = Vec::new();
    export_to_dot(&mut out, &[&z]).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(
        text,
        "digraph {\n{ rank=source; \"A\"; }\n\
         { 0 [label=\"Exp\", shape=rectangle]; }\n\"A\" -> 0\n{ \"B\"; }\n0 -> \"B\"\n\
         { 1 [label=\"Add\", shape=rectangle]; }\n\"B\" -> 1\n\"A\" -> 1\n\
         { rank=sink; \"C\"; }\n1 -> \"C\"\n}\n"
    );
    let quoted = Graph::new(&[&z]).name(&x, "say \"x\"").dot()?;
    assert!(quoted.contains(r#""say \"x\"" -> 0"#), "{quoted}");
    Ok(())
}

#[test]
fn operations_with_several_results_are_one() -> Result<()> {
    let parts = mlx_core::ops::shape::split(&Array::ones::<f32>(&[4])?, 2, 0)?;
    let sum = (&parts[0] + &parts[1])?;
    let text = Graph::new(&[&sum]).text()?;
    assert_eq!(text.matches("Split").count(), 1, "{text}");
    Ok(())
}

/// Deeper than any stack: a recursion would end the process.
#[test]
fn depth_costs_no_stack() -> Result<()> {
    std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(|| -> Result<usize> {
            let mut x = array!(1.0)?;
            for _ in 0..50_000 {
                x = x.negative()?;
            }
            Ok(Graph::new(&[&x]).text()?.lines().count()
                + Graph::new(&[&x]).dot()?.len() / 1_000_000)
        })
        .unwrap()
        .join()
        .unwrap()
        .map(|lines| assert!(lines > 50_000))
}

#[test]
fn writers_that_fail_say_so() -> Result<()> {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let error = print_graph(Full, &[&array!(1)?]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    Ok(())
}
