//! What the pages are shown: each item as JSON, with the number of the change that made it so.
//!
//! Whoever was told everything up to one change asks for what came after it. However many changes lie between, each
//! item is told once, as it is now; so somebody slow is told less often, and never something old.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

/// How many items that are gone are remembered. Who was told of none of them begins anew.
const GONE_MAX: usize = 10_000;

/// As in "guests".
pub type Kind = &'static str;

/// As JSON already.
#[derive(Debug, Clone)]
pub struct Json(Arc<RawValue>);

impl Json {
    pub fn of(value: &impl Serialize) -> Option<Json> {
        serde_json::value::to_raw_value(value).ok().map(|value| Json(Arc::from(value)))
    }
}

#[derive(Debug)]
struct Item {
    /// None: it is gone.
    json: Option<Json>,
    /// The number of its last change.
    at: u64,
}

/// All items of all kinds.
#[derive(Debug, Default)]
pub struct Items {
    kinds: BTreeMap<Kind, BTreeMap<String, Item>>,
    /// The last change of each item.
    changes: BTreeMap<u64, (Kind, String)>,
    /// How many changes there were.
    now: u64,
    gone: usize,
    /// Items that were gone by this change may be forgotten.
    forgotten: u64,
    /// What there was at first is still being computed.
    pub more: bool,
}

/// What a page is told.
#[derive(Debug, Default, Serialize)]
pub struct Message<'a> {
    items: BTreeMap<Kind, BTreeMap<&'a str, &'a RawValue>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    gone: BTreeMap<Kind, Vec<&'a str>>,
    /// Not everything has been told yet: what is counted now is not all there is.
    #[serde(skip_serializing_if = "is_false")]
    more: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Message<'_> {
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Items {
    /// None yet, and more to come.
    pub fn begun() -> Items {
        Items { more: true, ..Items::default() }
    }

    /// How many changes there were.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Whether anything of a kind was ever shown.
    pub fn has(&self, kind: Kind) -> bool {
        self.kinds.contains_key(kind)
    }

    /// Makes one item what it is now; `None`: it is gone.
    pub fn set(&mut self, kind: Kind, id: &str, json: Option<Json>) {
        let before = self.kinds.get(kind).and_then(|items| items.get(id));
        let same = match (before.and_then(|item| item.json.as_ref()), &json) {
            (Some(old), Some(new)) => old.0.get() == new.0.get(),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if same {
            return;
        }
        if let Some(item) = before {
            self.changes.remove(&item.at);
            self.gone -= usize::from(item.json.is_none());
        }
        self.now += 1;
        self.gone += usize::from(json.is_none());
        self.changes.insert(self.now, (kind, id.to_owned()));
        self.kinds.entry(kind).or_default().insert(id.to_owned(), Item { json, at: self.now });
        self.forget();
    }

    /// Makes one kind's items what they are now; others of that kind are gone.
    pub fn replace(&mut self, kind: Kind, items: BTreeMap<String, Json>) {
        let known = self.kinds.get(kind).into_iter().flatten();
        let gone = known.filter(|(id, item)| item.json.is_some() && !items.contains_key(*id));
        let gone: Vec<String> = gone.map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.set(kind, &id, None);
        }
        for (id, json) in items {
            self.set(kind, &id, Some(json));
        }
    }

    fn forget(&mut self) {
        if self.gone <= GONE_MAX {
            return;
        }
        let is_gone = |(kind, id): &(Kind, String)| {
            self.kinds.get(kind).and_then(|items| items.get(id)).is_some_and(|item| item.json.is_none())
        };
        let gone: Vec<u64> = self.changes.iter().filter(|(_, at)| is_gone(at)).map(|(at, _)| *at).collect();
        // Half of them at once, so that the search is worth it.
        for at in &gone[..gone.len() / 2] {
            if let Some((kind, id)) = self.changes.remove(at) {
                self.kinds.entry(kind).or_default().remove(&id);
            }
            self.forgotten = *at;
            self.gone -= 1;
        }
    }

    /// Everything, but of one kind only the first `most` items; and the id of the last of those, if there are more.
    pub fn everything(&self, long: Kind, most: usize) -> (Message<'_>, Option<String>) {
        let mut message = Message::default();
        for (kind, items) in self.kinds.iter().filter(|(kind, _)| **kind != long) {
            let there = items.iter().filter_map(|(id, item)| Some((id.as_str(), &*item.json.as_ref()?.0)));
            message.items.insert(kind, there.collect());
        }
        let (first, last) = self.part(long, None, most);
        message.items.extend(first.items);
        message.more = first.more;
        (message, last)
    }

    /// The next `most` items of one kind, and the id of the last of them, if there are more.
    pub fn part(&self, kind: Kind, after: Option<&str>, most: usize) -> (Message<'_>, Option<String>) {
        let mut message = Message::default();
        let mut last = None;
        let begin = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let range =
            self.kinds.get(kind).map(|items| items.range::<str, _>((begin, std::ops::Bound::Unbounded)));
        let part = message.items.entry(kind).or_default();
        for (id, item) in range.into_iter().flatten() {
            let Some(json) = &item.json else { continue };
            if part.len() == most {
                message.more = true;
                break;
            }
            part.insert(id, &json.0);
            last = Some(id.clone());
        }
        let last = last.filter(|_| message.more);
        message.more |= self.more;
        (message, last)
    }

    /// What changed after a change. `None`: too long ago, everything must be told.
    pub fn since(&self, told: u64) -> Option<Message<'_>> {
        if told < self.forgotten {
            return None;
        }
        let mut message = Message { more: self.more, ..Message::default() };
        for (kind, id) in self.changes.range(told + 1..).map(|(_, changed)| changed) {
            match self.kinds.get(kind).and_then(|items| items.get(id)?.json.as_ref()) {
                Some(json) => drop(message.items.entry(kind).or_default().insert(id, &json.0)),
                None => message.gone.entry(kind).or_default().push(id),
            }
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Option<Json> {
        Json::of(&text)
    }

    fn since(items: &Items, told: u64) -> String {
        items.since(told).map_or("everything".to_owned(), |message| message.text())
    }

    #[test]
    fn each_item_is_told_once_as_it_is_now() {
        let mut items = Items::default();
        items.set("guests", "web1", json("starts"));
        items.set("hosts", "host1", json("online"));
        let told = items.now();
        assert_eq!(since(&items, told), r#"{"items":{}}"#);
        items.set("guests", "web1", json("runs"));
        items.set("guests", "web1", json("runs"));
        items.set("guests", "web1", json("stops"));
        items.set("hosts", "host1", None);
        items.set("hosts", "never", None);
        assert_eq!(
            since(&items, told),
            r#"{"items":{"guests":{"web1":"stops"}},"gone":{"hosts":["host1"]}}"#
        );
        assert_eq!(items.now(), told + 3);
    }

    #[test]
    fn a_kind_that_is_replaced_loses_what_is_not_there_any_more() {
        let mut items = Items::default();
        let list = |names: &[&str]| {
            names.iter().filter_map(|name| Some(((*name).to_owned(), json(name)?))).collect()
        };
        items.replace("jobs", list(&["a", "b"]));
        let told = items.now();
        items.replace("jobs", list(&["b", "c"]));
        assert_eq!(since(&items, told), r#"{"items":{"jobs":{"c":"c"}},"gone":{"jobs":["a"]}}"#);
    }

    #[test]
    fn a_long_kind_comes_in_parts_and_what_is_gone_is_in_none() {
        let mut items = Items::default();
        for name in ["a", "b", "c", "d"] {
            items.set("guests", name, json(name));
        }
        items.set("guests", "b", None);
        items.set("hosts", "host1", json("h"));
        let (message, last) = items.everything("guests", 2);
        assert_eq!(
            message.text(),
            r#"{"items":{"guests":{"a":"a","c":"c"},"hosts":{"host1":"h"}},"more":true}"#
        );
        let (message, last) = items.part("guests", last.as_deref(), 2);
        assert_eq!((message.text().as_str(), last), (r#"{"items":{"guests":{"d":"d"}}}"#, None));
        let (message, last) = items.everything("guests", 3);
        assert!(last.is_none() && !message.text().contains("more"));
    }

    #[test]
    fn until_everything_is_computed_more_is_to_come() {
        let mut items = Items::begun();
        items.set("hosts", "host1", json("h"));
        assert_eq!(
            items.everything("guests", 2).0.text(),
            r#"{"items":{"guests":{},"hosts":{"host1":"h"}},"more":true}"#
        );
        let told = items.now();
        items.set("guests", "a", json("a"));
        assert_eq!(since(&items, told), r#"{"items":{"guests":{"a":"a"}},"more":true}"#);
        items.more = false;
        items.set("guests", "b", json("b"));
        assert_eq!(since(&items, told), r#"{"items":{"guests":{"a":"a","b":"b"}}}"#);
    }

    #[test]
    fn what_is_gone_is_forgotten_some_day_and_who_was_not_told_begins_anew() {
        let mut items = Items::default();
        for number in 0..=GONE_MAX {
            items.set("events", &number.to_string(), json("happened"));
        }
        let told = items.now();
        for number in 0..=GONE_MAX {
            items.set("events", &number.to_string(), None);
        }
        assert!(items.since(told).is_none());
        assert!(items.since(items.now()).is_some());
        assert!(
            items.kinds["events"].len() <= GONE_MAX && items.changes.len() == items.kinds["events"].len()
        );
    }
}
