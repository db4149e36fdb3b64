//! The promises of the simulated seams, each as a story.
#![cfg(madsim)]

#[path = "../../tests/common/disk.rs"]
mod disk_body;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use driftline::agent::local::book::{Book, Item};
use driftline::agent::local::shelf::{self, Change, Shelf};
use driftline::env::{Disk, Env, hazard};
use driftline::secret::Secret;
use driftline::state::catalog::ServiceInfo;
use sim::bend::Bend;
use sim::disk::Wrong;
use sim::executor::{Machine, NoWitness, Universe};
use sim::fault::{Effect, Hosts, Rule};
use sim::hazard as hazards;
use sim::scenario::{DiskSettings, LinkSettings, Traffic};
use sim::trace::Trace;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

const MS: u64 = 1_000_000;

/// Runs a story in a world of its own; gives back the trace's hash and count.
fn story<F: Future<Output = ()>>(seed: u64, tell: impl FnOnce(Arc<Universe>) -> F) -> (u64, u64) {
    let runtime = madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default());
    runtime.block_on(async {
        let trace = Arc::new(Trace::new(None));
        let links = LinkSettings { latency_min_us: 1_000, latency_max_us: 2_000, tail_per_mille: 0 };
        let universe = Universe::new(seed, trace.clone(), links, Arc::new(NoWitness));
        tell(universe.clone()).await;
        assert_eq!(universe.panics(), []);
        (trace.hash(), trace.count())
    })
}

/// A story of two hosts: one that is sent to, and one that sends.
fn of_two<F: Future<Output = ()>>(
    tell: impl FnOnce(Arc<Universe>, Log, Arc<Machine>, Arc<Machine>) -> F,
) -> (u64, u64) {
    story(1, |universe| {
        let (sink, source) = (machine(&universe, 0), machine(&universe, 1));
        tell(universe, Log::default(), sink, source)
    })
}

fn ip(host: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, host as u8 + 1))
}

fn at(host: u32, port: u16) -> SocketAddr {
    SocketAddr::new(ip(host), port)
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

fn machine(universe: &Arc<Universe>, host: u32) -> Arc<Machine> {
    Machine::new(universe.clone(), host, DiskSettings { sync_min_us: 1_000, sync_max_us: 2_000 })
}

/// A log that processes write to and the story reads.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// Boots a process that runs `main` and then stays.
fn boot<F>(machine: &Arc<Machine>, main: impl FnOnce(Env) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    machine.boot(ip(machine.host()), |env| {
        let main = main(env);
        async move {
            main.await;
            std::future::pending().await
        }
    });
}

fn block(universe: &Universe, from: u32, to: u32) -> u64 {
    universe.net.add_rule(Rule { from: Hosts::only([from]), to: Hosts::only([to]), effect: Effect::Block })
}

/// A process that writes down every datagram it gets on port 7.
fn datagram_sink(machine: &Arc<Machine>, log: &Log) {
    let log = log.clone();
    boot(machine, |env| async move {
        let socket = env.network().bind(any(7)).await.unwrap();
        loop {
            let (payload, from) = socket.recv_from().await.unwrap();
            log.add(format!("{} from {from}", String::from_utf8(payload).unwrap()));
        }
    });
}

/// A process that sends `count` numbered datagrams to host 0.
fn datagram_source(machine: &Arc<Machine>, count: u32) {
    boot(machine, move |env| async move {
        let socket = env.network().bind(any(9)).await.unwrap();
        for number in 0..count {
            socket.send_to(format!("{number}").as_bytes(), at(0, 7)).await.unwrap();
            env.sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn datagrams_arrive_with_their_sender_after_the_latency_of_the_link() {
    of_two(|universe, log, sink, source| async move {
        datagram_sink(&sink, &log);
        datagram_source(&source, 1);
        universe.sleep(Duration::from_micros(900)).await;
        assert!(log.take().is_empty());
        universe.sleep(Duration::from_millis(2)).await;
        assert_eq!(log.take(), ["0 from 10.0.0.2:9"]);
    });
}

#[test]
fn datagrams_are_lost_in_a_partition_and_pass_after_it() {
    of_two(|universe, log, sink, source| async move {
        datagram_sink(&sink, &log);
        let rule = block(&universe, 1, 0);
        datagram_source(&source, 20);
        universe.sleep(Duration::from_millis(95)).await;
        assert!(log.take().is_empty());
        universe.net.remove_rule(rule);
        universe.sleep(Duration::from_millis(500)).await;
        assert_eq!(log.take().len(), 10);
    });
}

#[test]
fn loss_delay_and_copies_do_what_they_say() {
    story(3, |universe| async move {
        let (log, sink, source) = (Log::default(), machine(&universe, 0), machine(&universe, 1));
        datagram_sink(&sink, &log);
        let both = |effect| Rule { from: Hosts::All, to: Hosts::All, effect };
        let loss = universe.net.add_rule(both(Effect::Lose(0.5)));
        datagram_source(&source, 200);
        universe.sleep(Duration::from_secs(5)).await;
        let got = log.take().len();
        assert!((70..130).contains(&got), "{got} of 200 arrived at one half lost");
        universe.net.remove_rule(loss);

        let copies = universe.net.add_rule(both(Effect::Duplicate(1.0)));
        datagram_source(&source, 10);
        universe.sleep(Duration::from_secs(1)).await;
        assert_eq!(log.take().len(), 20);
        universe.net.remove_rule(copies);

        let reorder = Effect::Reorder { probability: 0.5, max_ns: 100 * MS };
        universe.net.add_rule(both(reorder));
        datagram_source(&source, 100);
        universe.sleep(Duration::from_secs(3)).await;
        let got = log.take();
        let number = |line: &String| line.split(' ').next().unwrap().parse::<u32>().unwrap();
        assert_eq!(got.len(), 100);
        assert!(!got.iter().map(number).is_sorted(), "some overtook others");
    });
}

/// A process that accepts streams on port 80 and writes down what each brings, until its end.
fn stream_sink(machine: &Arc<Machine>, log: &Log) {
    let log = log.clone();
    boot(machine, |env| async move {
        let listener = env.network().listen(any(80)).await.unwrap();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (log, env2) = (log.clone(), env.clone());
            env.spawn(async move {
                let mut buffer = [0; 1000];
                loop {
                    match stream.read(&mut buffer).await {
                        Ok(0) => return log.add("end"),
                        Ok(n) => log.add(String::from_utf8_lossy(&buffer[..n])),
                        Err(error) => {
                            return log.add(format!("{:?} at {}", error.kind(), env2.now().0 / (1000 * MS)));
                        }
                    }
                }
            });
        }
    });
}

/// A process that connects to host 0 and writes the numbers, one every 50 ms, then ends the stream.
fn stream_source(machine: &Arc<Machine>, log: &Log, count: u32) {
    let log = log.clone();
    boot(machine, move |env| async move {
        let mut stream = match env.network().connect(at(0, 80)).await {
            Ok(stream) => stream,
            Err(error) => {
                let seconds = env.now().0 / (1_000 * MS);
                return log.add(format!("connect: {:?} after {seconds} s", error.kind()));
            }
        };
        log.add("connected");
        for number in 0..count {
            if let Err(error) = stream.write_all(format!("{number} ").as_bytes()).await {
                return log.add(format!("write: {:?}", error.kind()));
            }
            env.sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn streams_keep_order_and_end() {
    of_two(|universe, log, sink, source| async move {
        stream_sink(&sink, &log);
        let reorder = Effect::Reorder { probability: 0.5, max_ns: 300 * MS };
        universe.net.add_rule(Rule { from: Hosts::All, to: Hosts::All, effect: reorder });
        universe.net.add_rule(Rule { from: Hosts::All, to: Hosts::All, effect: Effect::Lose(0.2) });
        stream_source(&source, &log, 50);
        universe.sleep(Duration::from_secs(60)).await;
        let text = log.take().join("");
        let numbers: String = (0..50).map(|number| format!("{number} ")).collect();
        assert_eq!(text, format!("connected{numbers}end"));
        assert_eq!(universe.net.connections(), 0, "both ends are forgotten");
    });
}

#[test]
fn a_stream_holds_its_bytes_during_a_partition_and_delivers_them_after_it() {
    of_two(|universe, log, sink, source| async move {
        stream_sink(&sink, &log);
        stream_source(&source, &log, 10);
        universe.sleep(Duration::from_millis(20)).await;
        let rule = block(&universe, 1, 0);
        universe.sleep(Duration::from_secs(10)).await;
        assert_eq!(log.take().join(""), "connected0 ");
        universe.net.remove_rule(rule);
        universe.sleep(Duration::from_secs(6)).await;
        assert_eq!(log.take().join(""), "1 2 3 4 5 6 7 8 9 end");
    });
}

#[test]
fn a_stream_that_is_blocked_for_long_breaks_on_the_side_that_writes() {
    of_two(|universe, log, sink, source| async move {
        stream_sink(&sink, &log);
        stream_source(&source, &log, 1_000);
        universe.sleep(Duration::from_millis(20)).await;
        block(&universe, 1, 0);
        universe.sleep(Duration::from_secs(50)).await;
        assert_eq!(log.take(), ["connected", "0 ", "write: TimedOut"]);
    });
}

#[test]
fn connecting_is_refused_without_a_listener_and_hangs_without_a_host() {
    of_two(|universe, log, sink, source| async move {
        boot(&sink, |_| async {});
        stream_source(&source, &log, 1);
        universe.sleep(Duration::from_secs(1)).await;
        assert_eq!(log.take(), ["connect: ConnectionRefused after 0 s"]);
        sink.power_loss();
        let start = universe.pump.now() / (1_000 * MS);
        stream_source(&source, &log, 1);
        universe.sleep(Duration::from_secs(19)).await;
        assert!(log.take().is_empty());
        universe.sleep(Duration::from_secs(3)).await;
        assert_eq!(log.take(), [format!("connect: TimedOut after {} s", start + 20)]);
    });
}

#[test]
fn a_killed_process_has_its_streams_closed_and_a_host_without_power_says_nothing() {
    of_two(|universe, log, sink, source| async move {
        stream_sink(&sink, &log);
        stream_source(&source, &log, 1_000);
        universe.sleep(Duration::from_millis(20)).await;
        source.kill();
        universe.sleep(Duration::from_millis(20)).await;
        assert_eq!(log.take(), ["connected", "0 ", "end"]);

        stream_source(&source, &log, 1_000);
        universe.sleep(Duration::from_millis(20)).await;
        source.power_loss();
        universe.sleep(Duration::from_secs(100)).await;
        assert_eq!(log.take(), ["connected", "0 "]);
    });
}

#[test]
fn what_speaks_to_a_stream_of_before_a_reboot_is_reset() {
    of_two(|universe, log, sink, source| async move {
        stream_sink(&sink, &log);
        stream_source(&source, &log, 1_000);
        universe.sleep(Duration::from_millis(20)).await;
        sink.power_loss();
        universe.sleep(Duration::from_secs(5)).await;
        assert_eq!(log.take(), ["connected", "0 "]);
        boot(&sink, |_| async {});
        universe.sleep(Duration::from_secs(6)).await;
        assert_eq!(log.take(), ["write: ConnectionReset"]);
    });
}

#[test]
fn a_host_that_vanished_leaves_its_streams_half_open() {
    of_two(|universe, log, sink, source| async move {
        stream_sink(&sink, &log);
        stream_source(&source, &log, 1_000);
        universe.sleep(Duration::from_millis(20)).await;
        sink.vanish();
        universe.sleep(Duration::from_secs(5)).await;
        boot(&sink, |_| async {});
        universe.sleep(Duration::from_secs(20)).await;
        assert_eq!(log.take(), ["connected", "0 "], "no reset, although the host is up");
        universe.sleep(Duration::from_secs(15)).await;
        assert_eq!(log.take(), ["write: TimedOut"]);
        assert_eq!(universe.net.connections(), 0, "both ends are forgotten");
    });
}

#[test]
fn a_black_hole_takes_the_bytes_of_a_stream_and_the_stream_never_recovers() {
    of_two(|universe, log, sink, source| async move {
        stream_sink(&sink, &log);
        stream_source(&source, &log, 1_000);
        universe.sleep(Duration::from_millis(20)).await;
        let effect = Effect::Swallow(Traffic::Streams);
        let rule = universe.net.add_rule(Rule { from: Hosts::only([1]), to: Hosts::only([0]), effect });
        universe.sleep(Duration::from_secs(5)).await;
        universe.net.remove_rule(rule);
        universe.sleep(Duration::from_secs(30)).await;
        assert_eq!(log.take(), ["connected", "0 "], "the sender is told nothing and writes on");
        // A new stream is as good as ever; a connect into the hole hangs.
        stream_source(&source, &log, 1);
        universe.sleep(Duration::from_secs(1)).await;
        assert_eq!(log.take().join(""), "connected0 end");
        let effect = Effect::Swallow(Traffic::Streams);
        universe.net.add_rule(Rule { from: Hosts::only([1]), to: Hosts::only([0]), effect });
        stream_source(&source, &log, 1);
        universe.sleep(Duration::from_secs(19)).await;
        assert!(log.take().is_empty());
        universe.sleep(Duration::from_secs(2)).await;
        assert!(log.take()[0].starts_with("connect: TimedOut"));
    });
}

#[test]
fn a_firewall_refuses_connects_and_resets_streams() {
    of_two(|universe, log, sink, source| async move {
        stream_sink(&sink, &log);
        stream_source(&source, &log, 1_000);
        universe.sleep(Duration::from_millis(20)).await;
        universe.net.add_rule(Rule { from: Hosts::All, to: Hosts::only([0]), effect: Effect::Refuse });
        universe.sleep(Duration::from_secs(1)).await;
        assert_eq!(log.take(), ["connected", "0 ", "write: ConnectionReset"]);
        stream_source(&source, &log, 1);
        universe.sleep(Duration::from_secs(1)).await;
        assert!(log.take()[0].starts_with("connect: ConnectionRefused"));
    });
}

#[test]
fn damaged_messages_arrive_as_something_else() {
    of_two(|universe, log, sink, source| async move {
        let got = log.clone();
        boot(&sink, |env| async move {
            let socket = env.network().bind(any(7)).await.unwrap();
            loop {
                let (payload, _) = socket.recv_from().await.unwrap();
                got.add(format!("{payload:?}"));
            }
        });
        universe.net.add_rule(Rule { from: Hosts::All, to: Hosts::All, effect: Effect::Corrupt(1.0) });
        datagram_source(&source, 10);
        universe.sleep(Duration::from_secs(1)).await;
        let got = log.take();
        assert_eq!(got.len(), 10);
        assert!(
            got.iter()
                .enumerate()
                .all(|(number, got)| *got != format!("{:?}", number.to_string().as_bytes()))
        );
    });
}

#[test]
fn a_writer_waits_for_a_reader_that_does_not_read() {
    of_two(|universe, log, sink, source| async move {
        boot(&sink, |env| async move {
            let listener = env.network().listen(any(80)).await.unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            env.sleep(Duration::from_secs(5)).await;
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            assert_eq!(all.len(), 1_000_000);
        });
        let log2 = log.clone();
        boot(&source, |env| async move {
            let mut stream = env.network().connect(at(0, 80)).await.unwrap();
            for piece in 0..10 {
                stream.write_all(&[piece; 100_000]).await.unwrap();
                log2.add(format!("{piece}"));
            }
        });
        universe.sleep(Duration::from_secs(4)).await;
        assert_eq!(log.take().len(), 2, "262,144 bytes are two whole pieces");
        universe.sleep(Duration::from_secs(4)).await;
        assert_eq!(log.take().len(), 8);
    });
}

#[test]
fn sleeps_follow_the_clock_of_their_host() {
    story(1, |universe| async move {
        let (log, slow, fast) = (Log::default(), machine(&universe, 0), machine(&universe, 1));
        universe.pump.set_rate(0, 500_000);
        universe.pump.set_rate(1, 2_000_000);
        for machine in [&slow, &fast] {
            let (log, host) = (log.clone(), machine.host());
            boot(machine, move |env| async move {
                env.sleep(Duration::from_secs(10)).await;
                log.add(format!("n{host}"));
            });
        }
        universe.sleep(Duration::from_millis(4_900)).await;
        assert!(log.take().is_empty());
        universe.sleep(Duration::from_millis(200)).await;
        assert_eq!(log.take(), ["n1"]);
        universe.sleep(Duration::from_millis(14_800)).await;
        assert!(log.take().is_empty());
        universe.sleep(Duration::from_millis(200)).await;
        assert_eq!(log.take(), ["n0"]);
    });
}

#[test]
fn a_clock_that_changes_takes_its_pending_sleeps_along() {
    story(1, |universe| async move {
        let (log, host) = (Log::default(), machine(&universe, 0));
        let sleeper = |seconds: u64| {
            let log = log.clone();
            move |env: Env| async move {
                let (from, wall) = (env.now(), env.wall());
                env.sleep(Duration::from_secs(seconds)).await;
                let wall = env.wall().as_secs() - wall.as_secs();
                log.add(format!("slept {} s, {wall} s on the wall", env.now().since(from).as_secs()));
            }
        };
        boot(&host, sleeper(10));
        universe.sleep(Duration::from_secs(5)).await;
        universe.pump.set_rate(0, 2_000_000);
        universe.sleep(Duration::from_millis(2_400)).await;
        assert!(log.take().is_empty());
        universe.sleep(Duration::from_millis(200)).await;
        assert_eq!(log.take(), ["slept 10 s, 10 s on the wall"]);

        universe.pump.set_rate(0, 1_000_000);
        boot(&host, sleeper(10));
        universe.sleep(Duration::from_secs(1)).await;
        universe.pump.jump(0, Duration::from_secs(60));
        universe.sleep(Duration::from_millis(1)).await;
        assert_eq!(log.take(), ["slept 61 s, 61 s on the wall"]);

        boot(&host, sleeper(10));
        universe.pump.step_wall(0, 100_000_000_000);
        universe.sleep(Duration::from_secs(9)).await;
        assert!(log.take().is_empty(), "the wall clock moves no sleep");
        universe.sleep(Duration::from_secs(2)).await;
        assert_eq!(log.take(), ["slept 10 s, 10 s on the wall"]);
    });
}

#[test]
fn a_stalled_process_misses_nothing_but_time() {
    of_two(|universe, log, sink, source| async move {
        datagram_sink(&sink, &log);
        universe.sleep(Duration::from_millis(1)).await;
        sink.stall();
        datagram_source(&source, 10);
        universe.sleep(Duration::from_secs(1)).await;
        assert!(log.take().is_empty());
        sink.resume();
        universe.sleep(Duration::from_millis(1)).await;
        assert_eq!(log.take().len(), 10);
    });
}

#[test]
fn on_a_slow_processor_steps_wait_for_one_another() {
    story(1, |universe| async move {
        let (log, host) = (Log::default(), machine(&universe, 0));
        let steps = log.clone();
        boot(&host, |env| async move {
            for task in 0..3 {
                let (log, env2) = (steps.clone(), env.clone());
                env.spawn(async move {
                    loop {
                        env2.sleep(Duration::from_millis(1)).await;
                        log.add(format!("{task}"));
                    }
                });
            }
        });
        universe.sleep(Duration::from_secs(1)).await;
        assert!(log.take().len() > 2_900);
        let load = host.processor.slow_down(10 * MS);
        universe.sleep(Duration::from_secs(3)).await;
        let slow = log.take();
        assert!((280..=303).contains(&slow.len()), "{} steps in 300 slots", slow.len());
        for task in ["0", "1", "2"] {
            assert!(slow.iter().filter(|step| *step == task).count() > 90, "each gets its turn");
        }
        host.processor.speed_up(load);
        universe.sleep(Duration::from_secs(1)).await;
        assert!(log.take().len() > 2_900);
    });
}

#[test]
fn a_bent_wall_clock_is_wrong_for_as_long_as_it_is_bent() {
    story(1, |universe| async move {
        let (log, host) = (Log::default(), machine(&universe, 0));
        let shown = log.clone();
        boot(&host, |env| async move {
            let first = env.wall();
            loop {
                env.sleep(Duration::from_secs(1)).await;
                let (ahead, behind) = (env.wall().saturating_sub(first), first.saturating_sub(env.wall()));
                shown.add(format!("{}", ahead.as_secs() as i64 - behind.as_secs() as i64));
            }
        });
        universe.sleep(Duration::from_millis(1_500)).await;
        let strobe = Bend::Strobe { delta_ns: 100_000 * MS, period_ns: 1_000 * MS };
        let number = universe.pump.bend_wall(0, strobe);
        universe.sleep(Duration::from_secs(4)).await;
        universe.pump.straighten_wall(0, number);
        universe.sleep(Duration::from_secs(2)).await;
        assert_eq!(log.take(), ["1", "2", "103", "4", "105", "6", "7"]);
    });
}

#[test]
fn a_node_lingers_at_a_place_of_its_code_and_can_be_struck_there() {
    story(1, |universe| async move {
        let (log, host) = (Log::default(), machine(&universe, 3));
        let passes = log.clone();
        boot(&host, |env| async move {
            loop {
                env.sleep(Duration::from_secs(1)).await;
                let before = env.now();
                env.linger(hazard::BEFORE_APPLY).await;
                passes.add(if env.now() == before { "at once" } else { "late" });
            }
        });
        universe.sleep(Duration::from_millis(1_500)).await;
        let pause = hazards::Effect::Pause { per_mille: 1_000, max_us: 100_000 };
        let number = universe.hazards().add(hazard::BEFORE_APPLY, pause.clone());
        let elsewhere = universe.hazards().add(hazard::PLANNED, pause);
        universe.sleep(Duration::from_secs(1)).await;
        universe.hazards().remove(number);
        universe.sleep(Duration::from_secs(1)).await;
        assert_eq!(log.take(), ["at once", "late", "at once"]);
        universe.hazards().remove(elsewhere);

        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        universe.hazards().add(hazard::BEFORE_APPLY, hazards::Effect::Strike(told));
        assert_eq!(heard.recv().await, Some(3));
        host.kill();
        universe.sleep(Duration::from_secs(3)).await;
        assert!(log.take().is_empty(), "it died there and did not get past");
    });
}

/// Runs a job on the disk of a host and waits for it.
async fn on_disk(
    universe: &Universe,
    host: &Arc<Machine>,
    job: impl FnOnce(&dyn driftline::env::Disk) + Send + 'static,
) {
    boot(host, |env| async move {
        let disk = env.disk();
        env.blocking(move || job(&*disk)).await.unwrap();
    });
    universe.sleep(Duration::from_secs(1)).await;
}

fn read(disk: &dyn driftline::env::Disk, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    disk.open("log").unwrap().read_at(0, &mut buffer).unwrap();
    buffer
}

#[test]
fn a_simulated_disk_does_what_a_disk_has_to() {
    story(1, |universe| async move {
        let host = machine(&universe, 0);
        on_disk(&universe, &host, disk_body::conforms).await;
    });
}

#[test]
fn errors_of_reads_and_writes_come_as_often_as_asked_and_change_nothing() {
    story(1, |universe| async move {
        let host = machine(&universe, 0);
        on_disk(&universe, &host, |disk| disk.open("log").unwrap().write_at(0, &[1; 2048]).unwrap()).await;
        host.disk.set_wrong(|wrong| (wrong.failing_reads, wrong.failing_writes) = (1, 1));
        on_disk(&universe, &host, |disk| {
            let file = disk.open("log").unwrap();
            assert!(file.read_at(0, &mut [0; 8]).is_err());
            assert!(file.write_at(0, &[2; 8]).is_err());
            assert_eq!(read(disk, 2048), [1; 2048]);
        })
        .await;
        host.disk.set_wrong(|wrong| wrong.short_reads = 1);
        on_disk(&universe, &host, |disk| {
            let short = disk.open("log").unwrap().read_at(0, &mut [0; 8]).unwrap_err();
            assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(read(disk, 2048), [1; 2048]);
        })
        .await;
        assert_eq!((host.disk.counters().errors, host.disk.counters().damages), (3, 0));
    });
}

#[test]
fn a_full_disk_lets_files_be_written_over_but_not_grow() {
    story(1, |universe| async move {
        let host = machine(&universe, 0);
        on_disk(&universe, &host, |disk| disk.open("log").unwrap().preallocate(4_096).unwrap()).await;
        host.disk.set_wrong(|wrong| wrong.capacity = Some(5_000));
        on_disk(&universe, &host, |disk| {
            let file = disk.open("log").unwrap();
            file.write_at(0, &[1; 4_096]).unwrap();
            for refused in [file.write_at(4_096, &[1; 1_000]), file.preallocate(6_000), file.set_len(6_000)] {
                assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::StorageFull);
            }
            assert_eq!(file.len().unwrap(), 4_096);
            disk.open("other").unwrap().write_at(0, &[1; 900]).unwrap();
            disk.remove("other").unwrap();
            file.write_at(4_096, &[1; 900]).unwrap();
        })
        .await;
        host.disk.heal();
        on_disk(&universe, &host, |disk| disk.open("log").unwrap().preallocate(6_000).unwrap()).await;
    });
}

#[test]
fn what_goes_astray_lands_in_the_same_file_on_a_sector() {
    story(1, |universe| async move {
        let host = machine(&universe, 0);
        on_disk(&universe, &host, |disk| disk.open("log").unwrap().write_at(0, &[1; 64 * 512]).unwrap())
            .await;
        host.disk.set_wrong(|wrong| wrong.misdirected_writes = 1);
        on_disk(&universe, &host, |disk| disk.open("log").unwrap().write_at(0, &[7; 512]).unwrap()).await;
        let landed = Arc::new(Mutex::new(0));
        let landed2 = landed.clone();
        on_disk(&universe, &host, move |disk| {
            let all = read(disk, 64 * 512);
            assert_eq!(all.iter().filter(|byte| **byte == 7).count(), 512);
            *landed2.lock().unwrap() = all.iter().position(|byte| *byte == 7).unwrap();
        })
        .await;
        let at = *landed.lock().unwrap();
        assert!(at > 0 && at.is_multiple_of(512), "{at}");
        host.disk.set_wrong(|wrong| wrong.misdirected_reads = 1);
        on_disk(&universe, &host, move |disk| {
            let mut sector = [0; 512];
            let file = disk.open("log").unwrap();
            file.read_at(at as u64, &mut sector).unwrap();
            assert_ne!(sector, [7; 512], "it came from elsewhere");
            file.read_at(at as u64, &mut sector).unwrap();
            assert_eq!(sector, [7; 512]);
        })
        .await;
        assert_eq!(host.disk.counters().damages, 2);
    });
}

#[test]
fn what_goes_wrong_is_aimed_at_files_and_a_read_goes_astray_where_a_write_did() {
    story(1, |universe| async move {
        let host = machine(&universe, 0);
        on_disk(&universe, &host, |disk| {
            for name in ["log-1", "meta"] {
                disk.open(name).unwrap().write_at(0, &[1; 64 * 512]).unwrap();
            }
        })
        .await;
        host.disk.set_wrong(|wrong| {
            (wrong.failing_reads, wrong.read_aim) = (1, Some("log-"));
            (wrong.misdirected_writes, wrong.misdirected_write_aim) = (1, Some("meta"));
        });
        on_disk(&universe, &host, |disk| {
            let (log, meta) = (disk.open("log-1").unwrap(), disk.open("meta").unwrap());
            meta.read_at(0, &mut [0; 512]).unwrap();
            assert!(log.read_at(0, &mut [0; 512]).is_err());
            log.write_at(0, &[2; 512]).unwrap();
            meta.write_at(0, &[3; 512]).unwrap();
            let mut sector = [0; 512];
            log.read_at(0, &mut sector).unwrap();
            assert_eq!(sector, [2; 512]);
            meta.read_at(0, &mut sector).unwrap();
            assert_eq!(sector, [1; 512], "it is elsewhere");
        })
        .await;
        assert!(host.disk.was_hit("meta") && !host.disk.was_hit("log"));
        host.disk.set_wrong(|wrong| (wrong.misdirected_reads, wrong.read_aim) = (40, Some("meta")));
        on_disk(&universe, &host, |disk| {
            let meta = disk.open("meta").unwrap();
            let mut sector = [0; 512];
            let found =
                (0..40).filter(|_| meta.read_at(512, &mut sector).is_ok() && sector == [3; 512]).count();
            assert_eq!(
                found, 14,
                "of all others only that one is another, and a place that was wrong is right the next two times"
            );
        })
        .await;
    });
}

#[test]
fn what_is_wrong_twice_ends_with_the_longer_of_the_two_and_tells_when_it_strikes() {
    story(1, |universe| async move {
        let host = machine(&universe, 0);
        let full = |capacity| Wrong { capacity: Some(capacity), ..Wrong::default() };
        let (told, mut struck) = mpsc::unbounded_channel();
        let long = host.disk.add_trouble(full(2_000), None);
        let short = host.disk.add_trouble(full(1_000), Some(told));
        on_disk(&universe, &host, |disk| disk.open("log").unwrap().write_at(0, &[1; 900]).unwrap()).await;
        assert!(struck.try_recv().is_err(), "nothing has shown yet");
        on_disk(&universe, &host, |disk| {
            assert!(disk.open("log").unwrap().write_at(0, &[1; 1_500]).is_err());
        })
        .await;
        assert!(struck.try_recv().is_ok());
        host.disk.end_trouble(short);
        on_disk(&universe, &host, |disk| {
            let file = disk.open("log").unwrap();
            file.write_at(0, &[1; 1_500]).unwrap();
            assert!(file.write_at(0, &[1; 2_500]).is_err());
        })
        .await;
        host.disk.end_trouble(long);
        on_disk(&universe, &host, |disk| disk.open("log").unwrap().write_at(0, &[1; 2_500]).unwrap()).await;
        // What happens so many times happens by one after the other.
        for _ in 0..2 {
            host.disk.add_trouble(Wrong { failing_writes: 1, ..Wrong::default() }, None);
        }
        on_disk(&universe, &host, |disk| {
            let file = disk.open("log").unwrap();
            let failed = (0..5).filter(|_| file.write_at(0, &[1; 8]).is_err()).count();
            assert_eq!(failed, 2);
        })
        .await;
    });
}

#[test]
fn only_what_a_disk_lost_is_not_kept() {
    story(1, |universe| async move {
        let host = machine(&universe, 0);
        host.disk.set_wrong(|wrong| (wrong.failing_writes, wrong.failing_syncs) = (1, 1));
        on_disk(&universe, &host, |disk| {
            let file = disk.open("log").unwrap();
            assert!(file.write_at(0, &[1; 8_192]).is_err());
            file.write_at(0, &[1; 8_192]).unwrap();
            assert!(file.sync().is_err());
            file.write_at(0, &[1; 8_192]).unwrap();
            file.sync().unwrap();
            disk.sync_dir().unwrap();
        })
        .await;
        host.power_loss();
        let after_errors = host.disk.counters();
        assert!(after_errors.errors == 2 && after_errors.kept_all(), "nothing was promised");
        host.disk.rot(1, false);
        assert!(!host.disk.counters().kept_all());
    });
}

#[test]
fn rot_changes_what_was_synced_and_a_replaced_disk_is_empty() {
    story(1, |universe| async move {
        let host = machine(&universe, 0);
        on_disk(&universe, &host, |disk| {
            let file = disk.open("log").unwrap();
            file.write_at(0, &[1; 8_192]).unwrap();
            file.sync().unwrap();
            disk.sync_dir().unwrap();
        })
        .await;
        host.power_loss();
        host.disk.rot(3, false);
        assert_eq!(host.disk.counters().damages, 3);
        on_disk(&universe, &host, |disk| {
            let rotten = read(disk, 8_192).chunks(512).filter(|sector| **sector != [1; 512]).count();
            assert!((1..=3).contains(&rotten), "{rotten} sectors");
        })
        .await;
        host.power_loss();
        host.disk.replace();
        on_disk(&universe, &host, |disk| assert!(disk.list().unwrap().is_empty())).await;
    });
}

#[test]
fn a_sync_that_lies_is_found_out_by_a_power_loss() {
    let lost = (0..20).filter(|seed| {
        let result = Arc::new(Mutex::new(false));
        let result2 = result.clone();
        story(*seed, |universe| async move {
            let host = machine(&universe, 0);
            on_disk(&universe, &host, |disk| {
                disk.open("log").unwrap().preallocate(512).unwrap();
                disk.open("log").unwrap().sync().unwrap();
                disk.sync_dir().unwrap();
            })
            .await;
            host.disk.set_wrong(|wrong| wrong.lies = true);
            on_disk(&universe, &host, |disk| {
                let file = disk.open("log").unwrap();
                file.write_at(0, &[1; 512]).unwrap();
                file.sync().unwrap();
            })
            .await;
            host.power_loss();
            on_disk(&universe, &host, move |disk| *result2.lock().unwrap() = read(disk, 512)[0] == 0).await;
            assert_eq!(host.disk.counters().lies, 1);
        });
        *result.lock().unwrap()
    });
    let lost = lost.count();
    assert!((1..20).contains(&lost), "{lost} of 20 lies were found out");
}

#[test]
fn a_slow_disk_takes_longer_and_a_stalled_one_waits() {
    story(1, |universe| async move {
        let (log, host) = (Log::default(), machine(&universe, 0));
        let write = |log: &Log| {
            let log = log.clone();
            move |env: Env| async move {
                let (begun, disk) = (env.now(), env.disk());
                env.blocking(move || disk.open("log").unwrap().write_at(0, &[1; 8]).unwrap()).await.unwrap();
                // Tasks take a little time of their own.
                log.add(format!("{:.0} ms", env.now().since(begun).as_secs_f64() * 1_000.0));
            }
        };
        boot(&host, write(&log));
        universe.sleep(Duration::from_secs(1)).await;
        host.disk.set_wrong(|wrong| wrong.slowness = 1_000);
        boot(&host, write(&log));
        universe.sleep(Duration::from_secs(1)).await;
        host.disk.heal();
        let until = universe.pump.now() + 700 * MS;
        host.disk.set_wrong(|wrong| wrong.stalled_until = until);
        boot(&host, write(&log));
        universe.sleep(Duration::from_secs(1)).await;
        assert_eq!(log.take(), ["0 ms", "40 ms", "700 ms"]);
    });
}

#[test]
fn a_power_loss_spares_what_was_synced_and_tears_the_rest() {
    let mut mixed = 0;
    for seed in 0..20 {
        story(seed, |universe| async move {
            let host = machine(&universe, 0);
            on_disk(&universe, &host, |disk| {
                let file = disk.open("log").unwrap();
                disk.sync_dir().unwrap();
                file.write_at(0, &[1; 8192]).unwrap();
                file.sync().unwrap();
                file.write_at(0, &[2; 4096]).unwrap();
            })
            .await;
            host.power_loss();
            on_disk(&universe, &host, |disk| {
                let bytes = read(disk, 8192);
                assert!(bytes[4096..].iter().all(|byte| *byte == 1), "synced bytes are kept");
                assert!(bytes[..4096].iter().all(|byte| *byte == 1 || *byte == 2));
            })
            .await;
        });
    }
    for seed in 0..20 {
        let result = Arc::new(Mutex::new(Vec::new()));
        let result2 = result.clone();
        story(seed, |universe| async move {
            let host = machine(&universe, 0);
            on_disk(&universe, &host, |disk| {
                let file = disk.open("log").unwrap();
                disk.sync_dir().unwrap();
                file.set_len(4096).unwrap();
                file.sync().unwrap();
                file.write_at(0, &[2; 4096]).unwrap();
            })
            .await;
            host.power_loss();
            on_disk(&universe, &host, move |disk| *result2.lock().unwrap() = read(disk, 4096)).await;
        });
        let bytes = result.lock().unwrap();
        mixed += usize::from(bytes.contains(&0) && bytes.contains(&2));
    }
    assert!(mixed >= 5, "only {mixed} of 20 losses tore the write");
}

#[test]
fn a_kill_keeps_what_was_written_but_not_what_the_job_had_yet_to_do() {
    story(1, |universe| async move {
        let host = machine(&universe, 0);
        on_disk(&universe, &host, |disk| disk.open("log").unwrap().write_at(0, &[1; 100]).unwrap()).await;
        host.kill();
        on_disk(&universe, &host, |disk| assert_eq!(read(disk, 100), [1; 100])).await;
        // The sync takes a millisecond at least; the process dies during it.
        boot(&host, |env| async move {
            let disk = env.disk();
            let job = env.blocking(move || {
                let file = disk.open("log").unwrap();
                file.write_at(0, &[2; 100]).unwrap();
                file.sync().unwrap();
                file.write_at(0, &[3; 100]).unwrap();
            });
            job.await.unwrap();
            panic!("the job ends after the process");
        });
        universe.sleep(Duration::from_micros(500)).await;
        host.kill();
        on_disk(&universe, &host, |disk| assert_eq!(read(disk, 100), [2; 100])).await;
    });
}

#[test]
fn a_sync_under_way_at_a_power_loss_has_promised_nothing() {
    let survived = (0..20).filter(|seed| {
        let result = Arc::new(Mutex::new(false));
        let result2 = result.clone();
        story(*seed, |universe| async move {
            let host = machine(&universe, 0);
            on_disk(&universe, &host, |disk| {
                let file = disk.open("log").unwrap();
                disk.sync_dir().unwrap();
                file.set_len(100).unwrap();
                file.sync().unwrap();
            })
            .await;
            boot(&host, |env| async move {
                let disk = env.disk();
                let job = move || {
                    let file = disk.open("log").unwrap();
                    file.write_at(0, &[2; 100]).unwrap();
                    file.sync().unwrap();
                };
                env.blocking(job).await.unwrap();
            });
            universe.sleep(Duration::from_micros(500)).await;
            host.power_loss();
            on_disk(&universe, &host, move |disk| *result2.lock().unwrap() = read(disk, 100)[0] == 2).await;
        });
        *result.lock().unwrap()
    });
    let survived = survived.count();
    assert!((1..20).contains(&survived), "{survived} of 20 unfinished syncs survived");
}

#[test]
fn a_failed_sync_drops_what_was_written_and_the_next_one_lies() {
    story(1, |universe| async move {
        let host = machine(&universe, 0);
        on_disk(&universe, &host, |disk| {
            let file = disk.open("log").unwrap();
            file.write_at(0, &[1; 100]).unwrap();
            file.sync().unwrap();
        })
        .await;
        host.disk.set_wrong(|wrong| wrong.failing_syncs = 1);
        on_disk(&universe, &host, |disk| {
            let file = disk.open("log").unwrap();
            file.write_at(0, &[2; 100]).unwrap();
            assert!(file.sync().is_err());
            assert_eq!(read(disk, 100), [1; 100]);
            file.sync().unwrap();
        })
        .await;
        assert_eq!(host.disk.counters().failed_syncs, 1);
    });
}

#[test]
fn a_name_that_was_not_synced_may_vanish_in_a_power_loss() {
    let lost = (0..20).filter(|seed| {
        let result = Arc::new(Mutex::new(false));
        let result2 = result.clone();
        story(*seed, |universe| async move {
            let host = machine(&universe, 0);
            on_disk(&universe, &host, |disk| {
                disk.open("kept").unwrap();
                disk.sync_dir().unwrap();
                disk.open("log").unwrap().sync().unwrap();
            })
            .await;
            host.power_loss();
            on_disk(&universe, &host, move |disk| {
                assert!(disk.exists("kept").unwrap());
                *result2.lock().unwrap() = !disk.exists("log").unwrap();
            })
            .await;
        });
        *result.lock().unwrap()
    });
    let lost = lost.count();
    assert!((1..20).contains(&lost), "{lost} of 20 names were lost");
}

/// What an agent registered is there after a power loss, as it was before or after the change under way.
#[test]
fn what_an_agent_registered_outlives_a_power_loss() {
    let service =
        |port: u16| ServiceInfo { id: "web".into(), name: "web".into(), port, ..Default::default() };
    let token = || Secret::new("registered with it".to_owned());
    let tokens = move || BTreeMap::from([(Item::Service("web".to_owned()), token())]);
    let write = move |disk: &dyn Disk, port: u16| {
        let (mut book, mut shelf) = (Book::default(), Shelf::default());
        book.set_service(service(port));
        shelf.read(disk).unwrap();
        let changes = shelf.changes(&book, &tokens());
        shelf::carry_out(disk, &changes).unwrap();
    };
    for seed in 0..20 {
        story(seed, |universe| async move {
            let host = machine(&universe, 0);
            on_disk(&universe, &host, move |disk| write(disk, 1)).await;
            host.power_loss();
            on_disk(&universe, &host, move |disk| {
                assert_eq!(Shelf::default().read(disk).unwrap().services, [(service(1), token())]);
                // The next change is cut off before its last step.
                let making = disk.open("services/half.tmp").unwrap();
                making.write_at(0, b"half").unwrap();
                let mut book = Book::default();
                book.set_service(service(2));
                let changes = Shelf::default().changes(&book, &tokens());
                let [Change::Write(name, content)] = &changes[..] else { panic!("{changes:?}") };
                let file = disk.open(&format!("{name}.tmp")).unwrap();
                file.write_at(0, content.as_bytes()).unwrap();
                file.sync().unwrap();
                disk.rename(&format!("{name}.tmp"), name).unwrap();
            })
            .await;
            host.power_loss();
            on_disk(&universe, &host, move |disk| {
                let found = Shelf::default().read(disk).unwrap();
                assert!(found.bad.is_empty(), "{:?}", found.bad);
                let either = [1, 2].map(|port| [(service(port), token())]);
                assert!(either.iter().any(|one| found.services == *one), "{found:?}");
                write(disk, 3);
            })
            .await;
            host.kill();
            on_disk(&universe, &host, move |disk| {
                assert_eq!(Shelf::default().read(disk).unwrap().services, [(service(3), token())]);
            })
            .await;
        });
    }
}

#[test]
fn what_an_old_life_still_holds_is_dead() {
    story(1, |universe| async move {
        let host = machine(&universe, 0);
        let held = Arc::new(Mutex::new(None));
        let held2 = held.clone();
        boot(&host, |env| async move {
            let lock = env.disk().lock().unwrap();
            assert_eq!(env.disk().lock().err().unwrap().kind(), io::ErrorKind::WouldBlock);
            let socket = env.network().bind(any(7)).await.unwrap();
            *held2.lock().unwrap() = Some((env.disk().open("log").unwrap(), socket, lock, env));
        });
        universe.sleep(Duration::from_millis(10)).await;
        host.kill();
        let log = Log::default();
        datagram_sink(&host, &log);
        universe.sleep(Duration::from_millis(10)).await;
        let (file, socket, lock, env) = held.lock().unwrap().take().unwrap();
        assert!(file.write_at(0, b"late").is_err());
        assert!(file.sync().is_err());
        assert!(socket.send_to(b"late", at(0, 7)).await.is_err());
        assert!(env.network().connect(at(0, 7)).await.is_err());
        assert!(env.disk().open("log").is_err());
        on_disk(&universe, &host, |disk| assert!(disk.lock().is_ok())).await;
        drop((file, socket, lock));
        assert_eq!(host.disk.counters().writes, 0);
    });
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let run = |seed| {
        story(seed, |universe| async move {
            let (log, sink, source) = (Log::default(), machine(&universe, 0), machine(&universe, 1));
            universe.net.add_rule(Rule { from: Hosts::All, to: Hosts::All, effect: Effect::Lose(0.2) });
            stream_sink(&sink, &log);
            stream_source(&source, &log, 50);
            universe.sleep(Duration::from_secs(3)).await;
            sink.power_loss();
            universe.sleep(Duration::from_secs(3)).await;
            stream_sink(&sink, &log);
            universe.sleep(Duration::from_secs(20)).await;
        })
    };
    let (hash, count) = run(7);
    assert!(count > 100);
    assert_eq!(run(7), (hash, count));
    assert_ne!(run(8).0, hash);
}
