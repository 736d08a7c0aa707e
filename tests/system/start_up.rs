//! What keeps the process from starting, and what it says.

use milecastle_testkit::{Process, TempDir};
use std::net::TcpListener;
use std::time::Duration;

const END: Duration = Duration::from_secs(20);

/// Runs to the end and gives the exit code with everything it wrote.
fn outcome(args: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut process = Process::milecastle("milecastle", args, environment);
    let status = process.wait_for_end(END);
    (status.code(), process.log().join("\n"))
}

#[test]
fn a_port_in_use_is_named_with_the_key_that_changes_it() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let dir = TempDir::new();
    let data = dir.path().join("data");
    let args = ["up", "--data", data.to_str().unwrap()];
    let environment = [
        ("MILECASTLE__GATEWAY__APISIX__STATUS__IP", "127.0.0.1"),
        ("MILECASTLE__GATEWAY__APISIX__STATUS__PORT", port.as_str()),
    ];
    let (code, said) = outcome(&args, &environment);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("127.0.0.1:{port} is in use")), "{said}");
    assert!(said.contains("gateway.apisix.status.port"), "{said}");
    assert!(!data.exists(), "nothing is made before the ports are known to be free");
}

#[test]
fn faults_of_a_file_are_named_with_line_and_key() {
    let dir = TempDir::new();
    let file = dir.write("up.yaml", "gateway:\n  apisix:\n    node_listn: 9080\n  workers: many\n");
    let (code, said) = outcome(&["check", "-c", file.to_str().unwrap()], &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("up.yaml"), "{said}");
    assert!(said.contains("node_listn") && said.contains("node_listen"), "{said}");
    assert!(said.contains(":3") && said.contains(":4"), "{said}");
    let good = dir.write("good.yaml", "gateway:\n  workers: 1\n");
    let (code, said) = outcome(&["check", "-c", good.to_str().unwrap()], &[]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn help_names_the_commands() {
    let (code, said) = outcome(&["--help"], &[]);
    assert_eq!(code, Some(0));
    for word in ["up", "check", "--help", "--version"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn the_sample_of_deploy_is_a_valid_file() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/up.yaml");
    let (code, said) = outcome(&["check", "-c", file], &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("0.0.0.0:443"), "{said}");
}
