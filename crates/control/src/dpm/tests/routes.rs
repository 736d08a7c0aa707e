//! What nodes count by route.

use std::time::Duration;

use milecastle_store::{DEFAULT_GROUP, RouteSampleFilter};
use milecastle_testkit::eventually;
use milecastle_wire::pb;
use pb::node_message::Message;

use super::{Replica, on_both};

on_both!(what_nodes_count_by_route_is_added_up_and_written);

/// The last thing that each node says has this uptime.
const LAST: Duration = Duration::from_millis(77);

fn told(good: u64) -> pb::RouteTraffic {
    let counts = pb::RouteCounts {
        route: "r".to_owned(),
        responses: vec![0, good, 0, 0, 0],
        request_times: vec![0; 16],
        ..pb::RouteCounts::default()
    };
    pb::RouteTraffic { over_ms: 1000, routes: vec![counts], other: None, unmatched: None }
}

async fn what_nodes_count_by_route_is_added_up_and_written(replica: Replica) {
    let token = replica.token().await;
    let mut streams = Vec::new();
    for (id, counts) in [("n1", [1, 2]), ("n2", [4, 8]), ("old", [0, 0])] {
        let stream = replica.settled(&replica.join(&token, id).await.unwrap()).await;
        for good in counts {
            // One of an earlier version tells none.
            let route_traffic = (id != "old").then(|| told(good));
            stream.say(Message::Report(pb::Report { route_traffic, ..pb::Report::default() })).await;
        }
        let uptime_ms = LAST.as_millis().try_into().unwrap();
        stream.say(Message::Report(pb::Report { uptime_ms, ..pb::Report::default() })).await;
        streams.push(stream);
    }
    eventually("all is heard", async || {
        let nodes = replica.manager.nodes().list(DEFAULT_GROUP).await.unwrap();
        nodes.iter().filter(|node| node.figures.is_some_and(|figures| figures.uptime == LAST)).count() == 3
    })
    .await;
    drop(streams);
    // A replica that stops writes the steps under way too.
    replica.manager.shutdown(Duration::from_secs(20)).await;
    for span in [30, 300] {
        let filter = RouteSampleFilter { span, until: u64::MAX >> 1, ..RouteSampleFilter::default() };
        // More than one if a step ended meanwhile.
        let samples = replica.store.route_sample_list(&filter, (0, "", ""), 100).await.unwrap();
        assert!(
            samples.iter().all(|sample| sample.group == DEFAULT_GROUP && sample.member == **replica.membership.id())
        );
        assert!(samples.iter().all(|sample| sample.nodes <= 2 && sample.at.is_multiple_of(span)));
        assert_eq!(samples.iter().map(|sample| sample.covered_ms).sum::<u64>(), 4000);
        let good = samples.iter().map(|sample| sample.routes["r"]["responses"][1].as_u64().unwrap());
        assert_eq!(good.sum::<u64>(), 15, "in steps of {span} s");
    }
}
