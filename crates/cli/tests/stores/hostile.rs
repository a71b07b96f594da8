//! Malicious endpoints: the client bounds what it reads, in memory and in errors.

use std::fs;

use alluvium::internals::store::{Key, KeyClass};
use alluvium::{Error, ErrorKind, Seq, Store};

use super::place::{Kind, Place, quick};
use super::proxy::{Act, Proxy, Request};
use alluvium_testkit::contract::object;
use alluvium_testkit::{runtime, store_on};

/// Maximum bytes that a client may read of an answer that is an error, or longer than it says.
const READ_MAX: u64 = 1 << 20;

/// Maximum bytes that a client may read of a page of a listing.
const PAGE_MAX: u64 = 33 << 20;

const NONSENSE: &str =
    "<a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a>\n";

fn store(place: &Place, proxy: &Proxy) -> Store {
    store_on(&place.via(proxy.address).open(), runtime(), quick().with(|it| it.tries_max = 2))
}

fn head(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: application/xml\r\n{headers}\r\n")
}

/// Returns the maximum bytes that the kernel holds of an answer, in the buffers of both sockets.
fn socket_buffers_max() -> u64 {
    let max = |name| {
        let sizes = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        sizes.split_whitespace().last().unwrap().parse::<u64>().unwrap()
    };
    max("tcp_rmem") + max("tcp_wmem")
}

/// Asserts that the client's reads, at most `limit` bytes of each answer, and its error were bounded.
fn bounded(place: &Place, proxy: &Proxy, error: &Error, limit: u64) {
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{:?}: {}", place.kind, error.chain());
    assert!(error.chain().len() < 8 << 10, "{:?}: an error of {} bytes", place.kind, error.chain().len());
    let taken = proxy.longest_answer();
    assert!(taken < limit + socket_buffers_max(), "{:?}: the client took {taken} bytes", place.kind);
}

#[tokio::test(flavor = "multi_thread")]
async fn a27_an_error_without_end_is_read_only_at_its_start() {
    for place in Place::in_memory("a27-error").await {
        let act = Act::Endless(head("500 Internal Server Error", ""), NONSENSE);
        let proxy = Proxy::start(place.address, move |_| act.clone());
        let store = store(&place, &proxy);
        let (put_id, bytes) = object(1);
        let error = store.folder().put_new(&Key::Manifest(Seq(1)), put_id, bytes).await.unwrap_err();
        bounded(&place, &proxy, &error, READ_MAX);
        let error = store.folder().list(KeyClass::Manifest).await.unwrap_err();
        bounded(&place, &proxy, &error, READ_MAX);
        let error = store.folder().read_range(&Key::Manifest(Seq(1)), 0..64).await.unwrap_err();
        bounded(&place, &proxy, &error, READ_MAX);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a27_a_listing_without_end_is_given_up() {
    for place in Place::in_memory("a27-list").await {
        let act = Act::Endless(head("200 OK", ""), NONSENSE);
        let proxy = Proxy::start(place.address, move |_| act.clone());
        let error = store(&place, &proxy).folder().list(KeyClass::Manifest).await.unwrap_err();
        bounded(&place, &proxy, &error, PAGE_MAX);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a27_an_object_that_is_longer_than_it_says_is_not_read_to_its_end() {
    for place in Place::in_memory("a27-object").await {
        let headers = "ETag: \"e\"\r\nLast-Modified: Sat, 01 Jan 2022 00:00:00 GMT\r\nContent-Range: bytes 0-63/64\r\n";
        let length = "Content-Length: 1000000000000\r\n";
        let act = Act::Endless(head("206 Partial Content", &format!("{headers}{length}")), NONSENSE);
        let proxy = Proxy::start(place.address, move |request| match request.reads() {
            true => act.clone(),
            false => Act::Pass,
        });
        let store = store(&place, &proxy);
        let (put_id, bytes) = object(1);
        store.folder().put_new(&Key::Manifest(Seq(1)), put_id, bytes).await.unwrap();
        let error = store.folder().read_range(&Key::Manifest(Seq(1)), 0..64).await.unwrap_err();
        bounded(&place, &proxy, &error, READ_MAX);
        assert!(error.chain().contains("not as long as it says"), "{}", error.chain());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a27_entities_in_a_listing_are_not_expanded() {
    let mut bomb = "<?xml version=\"1.0\"?><!DOCTYPE b [<!ENTITY e0 \"boom\">".to_owned();
    for level in 1..30 {
        bomb += &format!("<!ENTITY e{level} \"&e{};&e{};\">", level - 1, level - 1);
    }
    bomb += "]>";
    let entry = "<Key>some/prefix/&e29;</Key><Size>1</Size><LastModified>2022-01-01T00:00:00Z</LastModified>";
    let s3 = format!("<ListBucketResult><Contents>{entry}</Contents></ListBucketResult>");
    let azure = "<EnumerationResults><Blobs><Blob><Name>&e29;</Name><Properties><Content-Length>1</Content-Length>\
                 <Last-Modified>Sat, 01 Jan 2022 00:00:00 GMT</Last-Modified></Properties></Blob></Blobs>\
                 </EnumerationResults>";
    for place in Place::in_memory("a27-bomb").await {
        let body = format!("{bomb}{}", if place.kind == Kind::Azure { azure } else { &s3 });
        let text = head("200 OK", &format!("Content-Length: {}\r\n", body.len())) + &body;
        let proxy = Proxy::start(place.address, move |request: &Request| match request.lists() {
            true => Act::Say(text.clone()),
            false => Act::Pass,
        });
        let error = store(&place, &proxy).folder().list(KeyClass::Manifest).await.unwrap_err();
        bounded(&place, &proxy, &error, READ_MAX);
    }
}
