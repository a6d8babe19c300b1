//! What a fence agent says of itself: the options that it knows, and what it can do.

use std::collections::{BTreeMap, BTreeSet};

use roxmltree::{Document, Node};

/// Words in the names of options whose values are passwords or as good as one.
const SECRET_WORDS: [&str; 6] = ["passw", "secret", "token", "community", "_kg", "api_key"];

/// What Kennel says itself, and what would write down what is secret.
const OURS: [(&str, &str); 8] = [
    ("action", "Kennel says itself what is to be done"),
    ("option", "Kennel says itself what is to be done"),
    ("delay", "give the device a delay of its own instead"),
    ("verbose", "it would print what is secret"),
    ("verbose_level", "it would print what is secret"),
    ("debug", "it would write down what is secret"),
    ("debug_file", "it would write down what is secret"),
    ("quiet", "Kennel passes on what the agent complains of"),
];

/// Whether an option's value must not be shown: by its name, because agents do not say.
pub fn is_secret(option: &str) -> bool {
    let script = option.ends_with("_script");
    !script && SECRET_WORDS.iter().any(|word| option.contains(word))
}

/// An agent's options and actions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    options: BTreeMap<String, Parameter>,
    actions: BTreeSet<String>,
    /// Whether a host must be let in from itself each time it starts, as with reservations on disks.
    lets_in_on_target: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Parameter {
    required: bool,
    /// An older name for another option.
    deprecated: bool,
    /// The older name of this one.
    obsoletes: Option<String>,
    content: Content,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Content {
    #[default]
    Text,
    Number,
    Boolean,
    OneOf(BTreeSet<String>),
}

impl Description {
    /// Reads an agent's `metadata`. The error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Description, String> {
        let document = Document::parse(text).map_err(|error| format!("it is not XML: {error}"))?;
        let root = document.root_element();
        if root.tag_name().name() != "resource-agent" {
            return Err(format!("it begins with <{}>, not <resource-agent>", root.tag_name().name()));
        }
        let mut description = Description::default();
        for parameter in inside(root, "parameters").filter(|node| node.has_tag_name("parameter")) {
            let Some(name) = parameter.attribute("name") else { continue };
            description.options.insert(name.to_owned(), Parameter::read(parameter));
        }
        for action in inside(root, "actions").filter(|node| node.has_tag_name("action")) {
            let Some(name) = action.attribute("name") else { continue };
            description.actions.insert(name.to_owned());
            description.lets_in_on_target |= name == "on" && action.attribute("on_target") == Some("1");
        }
        Ok(description)
    }

    /// What is wrong with these options; one sentence each, without a full stop.
    pub fn problems(&self, options: &BTreeMap<String, String>) -> Vec<String> {
        let mut problems = Vec::new();
        for action in ["off", "on", "status"] {
            if !self.actions.contains(action) {
                problems.push(format!("the agent has no action '{action}', so it cannot prove anything"));
            }
        }
        if self.lets_in_on_target {
            problems.push(
                "the agent must be asked by the host itself each time it starts, which Kennel does not do"
                    .into(),
            );
        }
        for (name, value) in options {
            if let Some((_, why)) = OURS.iter().find(|(ours, _)| ours == name) {
                problems.push(format!("the option '{name}' cannot be set: {why}"));
            } else if let Some(parameter) = self.options.get(name) {
                problems.extend(parameter.content.objection(value).map(|why| format!("'{name}' {why}")));
            } else {
                problems.push(format!("the agent knows no option '{name}'{}", self.alike(name)));
            }
        }
        let given = |name: &str| options.get(name).is_some_and(|value| !value.is_empty());
        for (name, parameter) in &self.options {
            let ours = OURS.iter().any(|(ours, _)| ours == name);
            let older = parameter.obsoletes.as_deref().is_some_and(given);
            if parameter.required && !parameter.deprecated && !ours && !given(name) && !older {
                problems.push(format!("the agent needs the option '{name}'"));
            }
        }
        problems
    }

    /// Names that somebody may have meant.
    fn alike(&self, name: &str) -> String {
        let near = |known: &&String| known.contains(name) || name.contains(known.as_str());
        let names: Vec<&str> = self.options.keys().filter(near).take(3).map(String::as_str).collect();
        if names.is_empty() { String::new() } else { format!(" (it knows {})", names.join(", ")) }
    }
}

impl Parameter {
    fn read(node: Node<'_, '_>) -> Parameter {
        let is = |name: &str| node.attribute(name) == Some("1");
        let content = node.children().find(|child| child.has_tag_name("content"));
        let has_default = content.is_some_and(|content| content.has_attribute("default"));
        Parameter {
            required: is("required") && !has_default,
            deprecated: is("deprecated"),
            obsoletes: node.attribute("obsoletes").map(str::to_owned),
            content: content.map(Content::read).unwrap_or_default(),
        }
    }
}

impl Content {
    fn read(node: Node<'_, '_>) -> Content {
        match node.attribute("type") {
            Some("integer" | "second") => Content::Number,
            Some("boolean") => Content::Boolean,
            Some("select") => {
                let values = node.children().filter(|child| child.has_tag_name("option"));
                let values = values.filter_map(|option| option.attribute("value")).map(str::to_owned);
                Content::OneOf(values.collect())
            }
            Some(_) | None => Content::Text,
        }
    }

    fn objection(&self, value: &str) -> Option<String> {
        if value.contains(char::is_control) {
            return Some("has characters that end lines".into());
        }
        match self {
            Content::Number if value.parse::<i64>().is_err() => {
                Some(format!("is a number, and not '{value}'"))
            }
            Content::Boolean => {
                let known = ["1", "0", "on", "off", "true", "false", "yes", "no"];
                (!known.contains(&value.to_ascii_lowercase().as_str()))
                    .then(|| format!("is 1 or 0, and not '{value}'"))
            }
            Content::OneOf(values) if !values.contains(value) => {
                let values: Vec<&str> = values.iter().map(String::as_str).collect();
                Some(format!("is one of {}, and not '{value}'", values.join(", ")))
            }
            Content::Text | Content::Number | Content::OneOf(_) => None,
        }
    }
}

fn inside<'a, 'input>(root: Node<'a, 'input>, name: &str) -> impl Iterator<Item = Node<'a, 'input>> {
    root.children().filter(move |node| node.has_tag_name(name)).flat_map(|node| node.children())
}
