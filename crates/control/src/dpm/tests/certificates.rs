//! Certificates end; what then.

use std::net::SocketAddr;
use std::sync::Arc;

use milecastle_pki::transport::connect;
use milecastle_pki::{CLUSTER_NAME, NodeCertificate, join_client_config};
use milecastle_settings::Time;
use milecastle_testkit::node::Held;
use milecastle_testkit::{eventually, hosts_of_each_family};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Code;

use super::Replica;
use crate::dpm::cluster_ca;

#[tokio::test]
async fn a_stream_does_not_outlive_its_certificate() {
    let replica = Replica::configured(|settings| settings.certificates.node_life = Time::secs(3)).await;
    let token = replica.token().await;
    let member = replica.join(&token, "n1").await.unwrap();
    let mut stream = replica.settled(&member).await;
    assert_eq!(stream.end().await.unwrap_err().code(), Code::Unauthenticated);
    assert!(std::time::SystemTime::now() >= member.keys.certificate().not_after);
    // It joins again under its name.
    let member = replica.join(&token, "n1").await.unwrap();
    member.open(replica.address(), Held::default()).await.unwrap();
}

#[tokio::test]
async fn nodes_come_over_either_family_or_both() {
    for (host, from) in hosts_of_each_family("nodes that come to") {
        let replica = Replica::configured(|settings| settings.server.listen.host = host.parse().unwrap()).await;
        let config = Arc::new(join_client_config(cluster_ca(&replica.store).await.unwrap().fingerprint()).unwrap());
        for &ip in from {
            let address = SocketAddr::new(ip, replica.manager.local_addr().port());
            connect(&address.to_string(), config.clone()).await.unwrap_or_else(|error| panic!("{host}: {error}"));
        }
    }
}

#[tokio::test]
async fn the_servers_certificate_is_replaced_while_it_serves() {
    let replica = Replica::configured(|settings| {
        settings.certificates.server_life = Time::secs(3);
        settings.certificates.names = vec!["dp.example.com".to_owned(), "192.0.2.7".to_owned()];
    })
    .await;
    let ca = cluster_ca(&replica.store).await.unwrap();
    let config = Arc::new(join_client_config(ca.fingerprint()).unwrap());
    let shown = async || {
        let stream = TcpStream::connect(replica.manager.local_addr()).await.unwrap();
        let name = CLUSTER_NAME.try_into().unwrap();
        let stream = TlsConnector::from(config.clone()).connect(name, stream).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let first = shown().await;
    // Not one of a node, whatever else it is.
    assert!(NodeCertificate::of(&first).is_err());
    for name in [&b"dp.example.com"[..], &[192, 0, 2, 7], b"localhost"] {
        assert!(first.windows(name.len()).any(|part| part == name));
    }
    let mut stream = replica.settled(&replica.member("n1").await).await;
    eventually("another certificate is shown", async || shown().await != first).await;
    stream.only_beats(2).await;
    connect(&replica.manager.local_addr().to_string(), config.clone()).await.unwrap();
}
