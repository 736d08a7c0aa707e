//! The expression language, templates and JSON paths: no text makes them panic, hang or contradict themselves.
//!
//! Input: four lines: an expression as JSON, a template, a JSON path, a JSON document whose members are the variables.

use milecastle_matching::{Expr, JsonPath, Lookup, NoVars, PatternBudget, Template, Var, VarName};
use serde_json::{Value, json};

/// Panics if the input shows a fault.
pub(crate) fn try_input(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.splitn(4, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (rule, template, path) = (line(), line(), line());
    let document = serde_json::from_str(line()).unwrap_or_default();
    let vars = Members(&document);
    if let Ok(rule) = serde_json::from_str::<Value>(rule) {
        expression(&rule, &vars);
    }
    render(template, &vars);
    if let Ok(path) = JsonPath::parse(path) {
        let found = path.select(&document);
        assert!(found.len() <= 65_536);
        assert!(path.is_query() || found.len() <= 1, "a dotted path names one value");
        assert!(path.var(&document).is_none() || !found.is_empty());
    }
}

/// The members of a JSON object.
struct Members<'d>(&'d Value);

impl Lookup for Members<'_> {
    fn var(&self, name: &VarName) -> Option<Var<'_>> {
        match name.json_path() {
            Some(path) => path.var(self.0),
            None => Var::from_json(self.0.get(name.as_str())?),
        }
    }
}

fn expression(rule: &Value, vars: &dyn Lookup) {
    let Ok(parsed) = Expr::parse(rule) else { return };
    let holds = parsed.eval(vars);
    // While it is written each pattern is compiled: one that does not compile is refused then, and counts as not found later.
    if let Ok(written) = Expr::compiled(rule, Some(&PatternBudget::default())) {
        assert_eq!((&written, written.eval(vars)), (&parsed, holds));
    }
    assert_eq!(parsed.eval(vars), holds);
    assert_eq!(Expr::compiled(rule, None).as_ref(), Ok(&parsed));
    assert_eq!(Expr::parse(rule).as_ref(), Ok(&parsed));
    if parsed.is_empty() {
        assert!(holds);
    } else if let Ok(negated) = Expr::parse(&json!(["!OR", rule, rule])) {
        assert_eq!(negated.eval(vars), !holds);
    }
}

fn render(text: &str, vars: &dyn Lookup) {
    let template = Template::parse(text);
    let names = template.names().count();
    assert_eq!(template.is_literal(), names == 0);
    for vars in [vars, &NoVars] {
        let rendered = template.render(vars);
        assert!(rendered.resolved <= names);
        if template.is_literal() {
            assert_eq!(rendered.text, text);
        }
        assert_eq!(template.clone().with_fallback("-").render(vars).resolved, names, "every name has a value now");
    }
}
