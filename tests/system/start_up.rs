//! What keeps the process from starting, and what it says.

use milecastle_testkit::process::binary;
use milecastle_testkit::{Process, TempDir};
use milecastle_tests::Up;
use std::net::TcpListener;
use std::process::{Command, Stdio};
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
fn a_terminal_reads_what_a_file_does() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let dir = TempDir::new();
    let up = format!("'{}' up --no-demo --data '{}'", binary().display(), dir.path().join("data").display());
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &up, "/dev/null"]).stdin(Stdio::null());
    terminal.env("MILECASTLE__GATEWAY__APISIX__STATUS__IP", "127.0.0.1");
    terminal.env("MILECASTLE__GATEWAY__APISIX__STATUS__PORT", port);
    let output = terminal.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    // The log has begun by then: neither colours nor what its library has to say of them.
    assert!(output.status.code() == Some(1) && said.contains("is in use"), "{said}");
    assert!(said.starts_with("milecastle: cannot listen") && !said.contains('\u{1b}'), "{said}");
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
fn names_that_mean_nothing_are_refused_by_check_and_start() {
    let dir = TempDir::new();
    let file = dir.write(
        "up.yaml",
        "log: { level: wrn }\nsealing: { key: aHVzaA== }\ngateway:\n  plugin_attr: { limit-cuont: {} }\n",
    );
    let data = dir.path().join("data");
    let (file, data) = (file.to_str().unwrap(), data.to_str().unwrap());
    for args in [&["check", "-c", file][..], &["up", "-c", file, "--data", data]] {
        let (code, said) = outcome(args, &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(":1:15: log.level: `wrn` is no level") && said.contains("`warn`"), "{said}");
        assert!(said.contains(":2:17: sealing.key: expected 32 bytes in base64") && !said.contains("aHVzaA"), "{said}");
        assert!(said.contains(":4:31: gateway.plugin_attr.limit-cuont: ") && said.contains("`limit-count`?"), "{said}");
    }
    let file = dir.write("reference.yaml", "apisix: { router: { http: radixtree_uri } }\nplugins: [key-auth]\n");
    let (code, said) = outcome(&["check", "--role", "gateway", "-c", file.to_str().unwrap()], &[]);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(said.matches("milecastle group settings set").count(), 2, "{said}");
    let (code, said) = outcome(&["up", "--data", data], &[("MILECASTLE_LOG", "wrn")]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("`wrn` (from MILECASTLE_LOG)"), "{said}");
    let file = dir.write("secrets.yaml", "sealing: { key_file: /no/such/key }\n");
    let (code, said) = outcome(&["check", "-c", file.to_str().unwrap()], &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(":1:22: sealing.key_file: cannot read /no/such/key"), "{said}");
}

#[test]
fn a_demo_upstream_on_another_port_says_so() {
    // Whoever holds the port, this test or another process: it is taken.
    let _holder = TcpListener::bind("127.0.0.1:1980");
    let data = TempDir::new();
    let mut process = Up::process_with_demo(&data);
    let said = process.wait_for_line("where the demo is", END, |line| {
        line.strip_prefix("127.0.0.1:1980 is not free, so the demo upstream is at ").map(str::to_owned)
    });
    let address = said.trim_end_matches(':');
    process
        .wait_for_line("the command to try", END, |line| line.contains(&format!("{{\"{address}\":1}}")).then_some(()));
}

#[test]
fn a_data_directory_has_one_process() {
    let mut first = Up::start();
    let mut second = Up::process_in(&first.data, &[]);
    assert_eq!(second.wait_for_end(END).code(), Some(1));
    let said = second.log().join("\n");
    let dir = first.data.path().join("data");
    let expected = format!("the directory {} is in use by process {}:", dir.display(), first.process.id());
    assert!(said.contains(&expected) && said.contains("--data"), "{said}");
    assert!(first.process.is_running());
    drop(Up::start_in(first.kill()).stop());
}

#[test]
fn help_names_the_commands() {
    let (code, said) = outcome(&["--help"], &[]);
    assert_eq!(code, Some(0));
    for word in ["up", "control", "dp-manager", "gateway", "config", "token", "key", "check", "--help", "--version"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn the_samples_of_deploy_are_valid_files() {
    for (role, listener) in [
        ("up", "0.0.0.0:443"),
        ("control", "0.0.0.0:17900"),
        ("dashboard", "0.0.0.0:17080"),
        ("dp-manager", "0.0.0.0:17901"),
        ("gateway", "0.0.0.0:7085"),
    ] {
        let file = format!("{}/../deploy/{role}.yaml", env!("CARGO_MANIFEST_DIR"));
        let (code, said) = outcome(&["check", "--role", role, "-c", &file], &[]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(listener), "{said}");
    }
}
