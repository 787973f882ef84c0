//! Certificates and authorities that are replaced under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use columba::identity::Settings;
use columba::tls::{ClientCertificates, Tls};

use crate::authority::{Authority, uri};
use crate::files::Files;
use crate::{call, endpoint, identifying};

/// Connects and calls as fast as it can while certificates are replaced, each by another authority,
/// the clients' authority with them. Every handshake and every call must succeed.
async fn swap_under_load(every: Duration, times: u64) {
    let roots = [Authority::new("one"), Authority::new("two")];
    let client = Authority::new("clients");
    let other = Authority::new("others");
    let trusted = roots.each_ref().map(Authority::pem).concat();
    let authorities = [client.pem(), client.pem() + &other.pem()];
    let mut files = Files::tls(&roots[0].server(), &authorities[0]);
    let tls = Tls::open(files.mutual(ClientCertificates::Required)).unwrap();
    let server = identifying(Settings::default(), Some(tls.clone())).await;

    let (stop, connected) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let pair = client.client(&[uri("spiffe://test/load")]);
    let load: Vec<_> = (0..4)
        .map(|_| {
            let endpoint = endpoint(server.address, &trusted, Some(&pair));
            let (stop, connected) = (stop.clone(), connected.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let channel = endpoint.connect().await.expect("a handshake");
                    call(channel, None).await.expect("an answer");
                    connected.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for swap in 1..=times {
        let before = connected.load(Ordering::Relaxed);
        let which = usize::from(swap % 2 == 1);
        files.replace_tls(&roots[which].server(), &authorities[which]);
        tokio::time::sleep(every).await;
        crate::eventually(async || tls.reloads() == swap && connected.load(Ordering::Relaxed) > before).await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    assert_eq!(tls.failed_reloads(), 0);
    println!("{} handshakes, {} reloads, 0 failures", connected.load(Ordering::Relaxed), tls.reloads());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_handshake_fails_while_certificates_are_replaced() {
    swap_under_load(Duration::from_millis(100), 8).await;
}

/// The same for a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn no_handshake_fails_for_a_minute() {
    swap_under_load(Duration::from_millis(300), 190).await;
}
