//! The owner comes and goes, against a scheduler with real TLS; the model is a stand-in.

use super::lab::{Guest, ask};
use crate::session_support::{Scheduler, World, failure, inline, until};
use nightshift_wire::proto::{self, agent_message::Kind as Up};

/// The newest word about whether the node may work.
fn last_word(seen: &[Up]) -> Option<proto::Availability> {
    let word = |up: &Up| if let Up::Heartbeat(beat) = up { beat.availability.clone() } else { None };
    seen.iter().rev().find_map(word)
}

async fn reason(world: &World, reason: &str) -> proto::Availability {
    let wanted = |seen: &[Up]| last_word(seen).filter(|word| word.reason == reason);
    world.wait(&format!("availability {reason:?}"), wanted).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_returns_work_is_handed_back_and_taken_up_again() {
    let world = World::new();
    let scheduler = Scheduler::start(&world);
    let agent = Guest::start(&world, &scheduler, |_| {});
    world.hello().await;
    world.assign("local/job/0/1", b"x", &[("sleep", "")]).await;
    until("it runs", || ask(agent.dir.path(), &["status"])["state"] == "Working").await;
    agent.told.idle(0.0);
    let word = reason(&world, "OwnerActive").await;
    assert!(!word.available && word.message.contains("180 s without input"), "{word:?}");
    let handed_back = world.outcome("local/job/0/1", 1).await;
    assert_eq!(failure(&handed_back).0, "OwnerActive");
    world.assign("local/job/0/2", b"x", &[]).await;
    assert!(world.refusal("local/job/0/2").await.message.starts_with("OwnerActive: "));
    let status = ask(agent.dir.path(), &["status"]);
    assert_eq!((&status["state"], &status["reason"]), (&"Paused".into(), &"OwnerActive".into()));

    agent.told.idle(181.0);
    reason(&world, "").await;
    world.assign("local/job/0/3", b"x", &[]).await;
    assert_eq!(inline(&world.outcome("local/job/0/3", 1).await), b"x");
    agent.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_work_completes_on_another_machine() {
    let (here, there) = (World::new(), World::new());
    let (first, second) = (Scheduler::start(&here), Scheduler::start(&there));
    let (busy, idle) = (Guest::start(&here, &first, |_| {}), Guest::start(&there, &second, |_| {}));
    here.hello().await;
    there.hello().await;
    here.assign("local/job/0/1", b"work", &[("sleep", "")]).await;
    until("it runs", || ask(busy.dir.path(), &["status"])["state"] == "Working").await;
    busy.told.idle(0.0);
    assert_eq!(failure(&here.outcome("local/job/0/1", 1).await).0, "OwnerActive");
    there.assign("local/job/0/2", b"work", &[]).await;
    assert_eq!(inline(&there.outcome("local/job/0/2", 1).await), b"work");
    busy.stopped().await.unwrap();
    idle.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_by_hand_survives_a_restart_and_every_reason_has_its_word() {
    let world = World::new();
    let scheduler = Scheduler::start(&world);
    let agent = Guest::start(&world, &scheduler, |_| {});
    world.hello().await;
    let dir = agent.dir.path().to_owned();
    let answer = ask(&dir, &["pause", "--for", "2h"]);
    assert!(answer["manual"]["until"].is_string(), "{answer}");
    assert!(reason(&world, "OwnerActive").await.message.starts_with("paused by hand until "));
    assert_eq!(ask(&dir, &["status"])["reason"], "Paused");
    let kept = std::fs::read_to_string(dir.join("owner.json")).unwrap();
    assert!(kept.contains("until"), "{kept}");
    ask(&dir, &["resume"]);
    reason(&world, "").await;
    agent.told.0.lock().unwrap().celsius = Some(95.0);
    assert_eq!(reason(&world, "Hot").await.message, "the processor has 95 °C, the limit is 90 °C");
    agent.told.0.lock().unwrap().on_battery = Some(true);
    assert_eq!(reason(&world, "OnBattery").await.message, "on battery");
    agent.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn history_and_earnings_say_what_ran() {
    let world = World::new();
    let scheduler = Scheduler::start(&world);
    let agent = Guest::start(&world, &scheduler, |_| {});
    world.hello().await;
    let dir = agent.dir.path().to_owned();
    world.assign("local/job/0/1", b"x", &[]).await;
    world.outcome("local/job/0/1", 1).await;
    until("the history has it", || ask(&dir, &["history"]).as_array().is_some_and(|list| list.len() == 1)).await;
    let entry = ask(&dir, &["history"])[0].clone();
    assert_eq!((&entry["model"], &entry["result"]), (&"default/test".into(), &"Succeeded".into()));
    let earnings = ask(&dir, &["earnings"]);
    assert_eq!(earnings["all"]["succeeded"], 1);
    assert_eq!(earnings["models"]["default/test"]["succeeded"], 1);
    agent.stopped().await.unwrap();
    assert!(!dir.join("agent.sock").exists() && !dir.join("page.url").exists());
}
