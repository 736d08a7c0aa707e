//! `/apisix/nginx_status` (`docs/spec/control-api.md` §2).

use crate::support::{Bed, LOCAL, route_to};
use http::Method;
use milecastle_settings::Peers;
use milecastle_testkit::raw::Raw;
use milecastle_testkit::{Call, Echo};
use serde_json::json;
use std::net::IpAddr;

const PATH: &str = "/apisix/nginx_status";

/// The numbers of a page, in its order; its words are those of nginx.
fn numbers(page: &str) -> Vec<u64> {
    let words: Vec<&str> = page.split(|c: char| c.is_ascii_digit()).filter(|words| !words.is_empty()).collect();
    let expected = [
        "Active connections: ",
        " \nserver accepts handled requests\n ",
        " ",
        " ",
        " \nReading: ",
        " Writing: ",
        " Waiting: ",
        " \n",
    ];
    assert_eq!(words, expected, "{page:?}");
    page.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[test]
fn clients_of_this_machine_read_the_counters() {
    let bed = Bed::new(vec![]);
    assert_eq!(bed.get("/none").status, 404);
    bed.wait_totals("nothing in work", |totals| totals.in_flight == 0);
    let page = bed.get(PATH);
    assert_eq!((page.status, page.header("content-type").as_str()), (200, "text/plain; charset=utf-8"));
    let [active, accepted, handled, requests, _, writing, _] = numbers(&page.text())[..] else {
        panic!("seven numbers")
    };
    assert!(active >= 1 && (accepted, handled) == (2, 2), "{}", page.text());
    assert_eq!((requests, writing), (2, 1), "with the one that asks");
    let head = bed.call(Call::new(Method::HEAD, PATH));
    assert_eq!((head.status, head.body.len()), (200, 0));
    for other in [Call::post(PATH, ""), Call::get("/apisix/nginx_status/"), Call::get("/apisix")] {
        assert_eq!(bed.call(other).status, 404);
    }
}

#[test]
fn others_are_refused() {
    let elsewhere = IpAddr::from([127, 0, 1, 1]);
    let bed = Bed::with(vec![], |file| {
        let believed = [LOCAL, elsewhere].map(|address| Peers::Network { address, prefix: 32 });
        file.nginx_config.http.real_ip_from = believed.to_vec();
    });
    // Behind a proxy on this machine that names its client.
    let behind = |client: &str| bed.call(Call::get(PATH).header("x-real-ip", client)).status;
    assert_eq!([behind("192.0.2.1"), behind("127.0.1.1"), behind("127.0.0.9")], [403, 403, 200]);
    // Behind one elsewhere, whatever that says.
    bed.run(async {
        for claim in ["", "X-Real-IP: 127.0.0.1\r\n"] {
            let mut client = Raw::connect_from(elsewhere, bed.http).await.unwrap();
            client.send(format!("GET {PATH} HTTP/1.1\r\nHost: h\r\n{claim}\r\n")).await.unwrap();
            assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 403 "), "{claim}");
        }
    });
}

#[test]
fn a_route_of_the_path_comes_first_and_the_file_may_switch_it_off() {
    let echo = Echo::named("own");
    let bed = Bed::new(route_to(&[echo.address()], json!({ "uri": "/apisix/*" })));
    assert_eq!(bed.get(PATH).json().unwrap()["server"], "own");
    let bed = Bed::with(vec![], |file| file.apisix.enable_nginx_status = false);
    assert_eq!(bed.get(PATH).status, 404);
}
