//! Walks a module once, validating it and holding its shape against the limits.

use wasmparser::{
    CompositeInnerType, ConstExpr, DataKind, ElementItems, ElementKind, ExternalKind,
    FuncToValidate, FuncType, FuncValidatorAllocations, FunctionBody, Operator, OperatorsReader,
    Parser, Payload, TypeRef, ValidPayload, Validator, ValidatorResources, WasmFeatures,
};

use super::limits::{
    BODY_MAX_BYTES, BR_TABLE_TARGETS_MAX, CONST_INSTRUCTIONS_MAX, DATA_SEGMENTS_MAX,
    ELEMENT_SEGMENTS_MAX, ELEMENTS_MAX, EXPORTS_MAX, FUNCTIONS_MAX, GLOBALS_MAX, IMPORTS_MAX,
    LOCALS_MAX, NAMES_MAX_BYTES, NESTING_MAX, PAGE_BYTES, PARAMETERS_MAX, TABLE_ELEMENTS_MAX,
    TABLES_MAX, TYPE_VALUES_MAX, TYPES_MAX,
};
use super::{ModuleError, ModuleInfo, Place, clip, parse_error};
use crate::preview1;

/// What has been seen of a module so far.
pub(super) struct Survey<'a> {
    wasm: &'a [u8],
    /// What is not allowed, noted in passing; a strict survey stops at the first instead.
    noted: Option<Vec<ModuleError>>,
    types: Vec<Option<FuncType>>,
    type_values: u64,
    /// The type index of every function, imported ones first.
    functions: Vec<u32>,
    bodies: u32,
    memory_min_bytes: u64,
    names_bytes: u64,
    elements: u64,
    const_instructions: u64,
    br_table_targets: u64,
    start: Option<(ExternalKind, u32)>,
    allocations: FuncValidatorAllocations,
}

/// Why a survey stopped: the bytes are wrong, or the profile forbids them.
pub(super) enum Stop {
    Parse(wasmparser::Error),
    Profile(ModuleError),
}

impl Stop {
    /// The reason in full, for a module that was walked with `features`.
    pub(super) fn reason(self, wasm: &[u8], features: WasmFeatures) -> ModuleError {
        match self {
            Stop::Parse(error) => parse_error(&error, wasm, features),
            Stop::Profile(error) => error,
        }
    }
}

impl From<wasmparser::Error> for Stop {
    fn from(error: wasmparser::Error) -> Stop {
        Stop::Parse(error)
    }
}

impl<'a> Survey<'a> {
    /// A survey that stops at the first thing that is not allowed.
    pub(super) fn strict(wasm: &'a [u8]) -> Survey<'a> {
        Survey {
            wasm,
            noted: None,
            types: Vec::new(),
            type_values: 0,
            functions: Vec::new(),
            bodies: 0,
            memory_min_bytes: 0,
            names_bytes: 0,
            elements: 0,
            const_instructions: 0,
            br_table_targets: 0,
            start: None,
            allocations: FuncValidatorAllocations::default(),
        }
    }

    /// A survey that notes what is not allowed and goes on as long as the bytes make sense.
    pub(super) fn tolerant(wasm: &'a [u8]) -> Survey<'a> {
        Survey { noted: Some(Vec::new()), ..Survey::strict(wasm) }
    }

    /// Reads every byte.
    pub(super) fn walk(&mut self, features: WasmFeatures) -> Result<ModuleInfo, Stop> {
        let mut validator = Validator::new_with_features(features);
        let mut parser = Parser::new(0);
        parser.set_features(features);
        for payload in parser.parse_all(self.wasm) {
            let payload = payload?;
            self.look(&payload)?;
            match validator.payload(&payload)? {
                ValidPayload::Func(function, body) => self.function(function, &body)?,
                ValidPayload::Ok | ValidPayload::Parser(_) | ValidPayload::End(_) => {}
            }
        }
        self.finish()
    }

    /// What a tolerant survey has noted.
    pub(super) fn into_noted(self) -> Vec<ModuleError> {
        self.noted.unwrap_or_default()
    }

    fn look(&mut self, payload: &Payload<'_>) -> Result<(), Stop> {
        if let Payload::TypeSection(section) = payload {
            self.bound("types", section.count().into(), TYPES_MAX)?;
            for group in section.clone() {
                for ty in group?.into_types() {
                    self.ty(ty.composite_type.inner)?;
                }
            }
        } else if let Payload::ImportSection(section) = payload {
            self.bound("imports", section.count().into(), IMPORTS_MAX)?;
            for import in section.clone().into_imports() {
                self.import(&import?)?;
            }
        } else if let Payload::FunctionSection(section) = payload {
            self.bound("functions", section.count().into(), FUNCTIONS_MAX)?;
            for ty in section.clone() {
                self.functions.push(ty?);
            }
        } else if let Payload::TableSection(section) = payload {
            self.bound("tables", section.count().into(), TABLES_MAX.into())?;
            for table in section.clone() {
                let elements = table?.ty.initial;
                self.bound("elements of a table", elements, TABLE_ELEMENTS_MAX as u64)?;
            }
        } else if let Payload::MemorySection(section) = payload {
            for memory in section.clone() {
                self.memory_min_bytes = memory?.initial.saturating_mul(PAGE_BYTES);
            }
        } else if let Payload::GlobalSection(section) = payload {
            self.bound("globals", section.count().into(), GLOBALS_MAX)?;
            for global in section.clone() {
                self.constant(&global?.init_expr)?;
            }
        } else if let Payload::ExportSection(section) = payload {
            self.exports(section)?;
        } else if let Payload::ElementSection(section) = payload {
            self.elements(section)?;
        } else if let Payload::DataSection(section) = payload {
            self.bound("data segments", section.count().into(), DATA_SEGMENTS_MAX)?;
            for data in section.clone() {
                if let DataKind::Active { offset_expr, .. } = &data?.kind {
                    self.constant(offset_expr)?;
                }
            }
        }
        Ok(())
    }

    fn ty(&mut self, ty: CompositeInnerType) -> Result<(), Stop> {
        let CompositeInnerType::Func(ty) = ty else {
            self.types.push(None);
            return Ok(());
        };
        let (parameters, results) = (ty.params().len() as u64, ty.results().len() as u64);
        self.bound("parameters of a type", parameters, PARAMETERS_MAX)?;
        self.bound("results of a type", results, PARAMETERS_MAX)?;
        self.type_values += parameters + results;
        self.bound("parameters and results of all types", self.type_values, TYPE_VALUES_MAX)?;
        self.types.push(Some(ty));
        Ok(())
    }

    fn import(&mut self, import: &wasmparser::Import<'_>) -> Result<(), Stop> {
        self.named(import.module)?;
        self.named(import.name)?;
        let names = || (clip(import.module), clip(import.name));
        let asked = match import.ty {
            TypeRef::Func(index) | TypeRef::FuncExact(index) => {
                self.functions.push(index);
                self.function_type(index).map_or_else(|| "an unknown type".into(), describe)
            }
            TypeRef::Table(_) => "a table".into(),
            TypeRef::Memory(_) => "a memory".into(),
            TypeRef::Global(_) => "a global".into(),
            TypeRef::Tag(_) => "a tag".into(),
        };
        let offered = match import.module {
            preview1::MODULE => preview1::signature(import.name),
            _ => None,
        };
        let Some(offered) = offered else {
            let (module, name) = names();
            return self.refuse(ModuleError::UnknownImport { module, name });
        };
        if asked == offered {
            return Ok(());
        }
        let (module, name) = names();
        self.refuse(ModuleError::ImportType { module, name, asked, offered })
    }

    fn exports(&mut self, section: &wasmparser::ExportSectionReader<'_>) -> Result<(), Stop> {
        self.bound("exports", section.count().into(), EXPORTS_MAX)?;
        for export in section.clone() {
            let export = export?;
            self.named(export.name)?;
            if export.name == "_start" {
                self.start = Some((export.kind, export.index));
            }
        }
        Ok(())
    }

    fn elements(&mut self, section: &wasmparser::ElementSectionReader<'_>) -> Result<(), Stop> {
        self.bound("element segments", section.count().into(), ELEMENT_SEGMENTS_MAX)?;
        for element in section.clone() {
            let element = element?;
            if let ElementKind::Active { offset_expr, .. } = &element.kind {
                self.constant(offset_expr)?;
            }
            self.elements += match &element.items {
                ElementItems::Functions(items) => u64::from(items.count()),
                ElementItems::Expressions(_, items) => u64::from(items.count()),
            };
            self.bound("elements of all segments", self.elements, ELEMENTS_MAX)?;
            if let ElementItems::Expressions(_, items) = element.items {
                for item in items {
                    self.constant(&item?)?;
                }
            }
        }
        Ok(())
    }

    fn constant(&mut self, expression: &ConstExpr<'_>) -> Result<(), Stop> {
        let mut operators = expression.get_operators_reader();
        while !operators.eof() {
            operators.read()?;
            self.const_instructions += 1;
        }
        // The `end` of each is one of them.
        let what = "instructions of constant expressions";
        self.bound(what, self.const_instructions, CONST_INSTRUCTIONS_MAX)
    }

    fn named(&mut self, name: &str) -> Result<(), Stop> {
        self.names_bytes += name.len() as u64;
        self.bound("bytes of import and export names", self.names_bytes, NAMES_MAX_BYTES)
    }

    fn function_type(&self, index: u32) -> Option<&FuncType> {
        self.types.get(index as usize)?.as_ref()
    }

    fn function(
        &mut self,
        function: FuncToValidate<ValidatorResources>,
        body: &FunctionBody<'_>,
    ) -> Result<(), Stop> {
        self.bodies += 1;
        let range = body.range();
        self.bound_at("bytes of a function", range.len() as u64, BODY_MAX_BYTES, range.start)?;
        let mut validator = function.into_validator(std::mem::take(&mut self.allocations));
        let mut reader = body.get_binary_reader();
        validator.read_locals(&mut reader)?;
        let locals = validator.len_locals().into();
        self.bound_at("locals of a function", locals, LOCALS_MAX, range.start)?;
        let mut depth_max = 0;
        let mut operators = OperatorsReader::new(reader);
        while !operators.eof() {
            let (operator, at) = operators.read_with_offset()?;
            validator.op(at, &operator)?;
            depth_max = depth_max.max(validator.control_stack_height());
            if let Operator::BrTable { targets } = &operator {
                self.br_table_targets += u64::from(targets.len());
            }
        }
        operators.finish()?;
        self.allocations = validator.into_allocations();
        self.bound_at("nested blocks of a function", depth_max.into(), NESTING_MAX, range.start)?;
        self.bound("branch table targets", self.br_table_targets, BR_TABLE_TARGETS_MAX)
    }

    fn finish(&mut self) -> Result<ModuleInfo, Stop> {
        let info = ModuleInfo { memory_min_bytes: self.memory_min_bytes, functions: self.bodies };
        let Some((kind, index)) = self.start else {
            return self.refuse(ModuleError::NoStart).map(|()| info);
        };
        let ty = self.functions.get(index as usize).and_then(|ty| self.function_type(*ty));
        match (kind, ty) {
            (ExternalKind::Func, Some(ty)) if ty.params().is_empty() && ty.results().is_empty() => {
                Ok(info)
            }
            _ => self.refuse(ModuleError::StartType).map(|()| info),
        }
    }

    fn bound(&mut self, what: &'static str, found: u64, max: u64) -> Result<(), Stop> {
        if found <= max {
            return Ok(());
        }
        // A sum that has passed its limit goes on growing: the first time says it.
        let is_known = |known: &ModuleError| matches!(known, ModuleError::OverLimit { what: known, .. } if *known == what);
        if self.noted.as_ref().is_some_and(|noted| noted.iter().any(is_known)) {
            return Ok(());
        }
        self.refuse(ModuleError::OverLimit { what, found, max, place: None })
    }

    /// The same for what concerns the function around byte `at`.
    fn bound_at(
        &mut self,
        what: &'static str,
        found: u64,
        max: u64,
        at: usize,
    ) -> Result<(), Stop> {
        if found <= max {
            return Ok(());
        }
        let place = Some(Place::of(self.wasm, at));
        self.refuse(ModuleError::OverLimit { what, found, max, place })
    }

    fn refuse(&mut self, error: ModuleError) -> Result<(), Stop> {
        match &mut self.noted {
            None => Err(Stop::Profile(error)),
            Some(noted) => {
                if noted.len() < NOTED_MAX && !noted.contains(&error) {
                    noted.push(error);
                }
                Ok(())
            }
        }
    }
}

/// What a function type looks like in a message: `(i32, i64) -> i32`.
fn describe(ty: &FuncType) -> String {
    let list = |types: &[wasmparser::ValType]| {
        let types = types.iter().take(DESCRIBED_MAX).map(ToString::to_string);
        types.collect::<Vec<_>>().join(", ")
    };
    match ty.results() {
        [] => format!("({})", list(ty.params())),
        results => format!("({}) -> {}", list(ty.params()), list(results)),
    }
}

/// No call has as many parameters; a module's own type may have a thousand.
const DESCRIBED_MAX: usize = 12;
/// More reasons than this are no help to anybody.
const NOTED_MAX: usize = 50;
