"use strict";
const told = /*told*/;

function bytes(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

function dragging(canvas, move) {
  let last = null;
  canvas.addEventListener("pointerdown", (e) => {
    last = [e.clientX, e.clientY];
    canvas.setPointerCapture(e.pointerId);
  });
  canvas.addEventListener("pointermove", (e) => {
    if (last === null) return;
    move(e.clientX - last[0], e.clientY - last[1]);
    last = [e.clientX, e.clientY];
  });
  canvas.addEventListener("pointerup", () => { last = null; });
}

// Views: the one that is nearest to where it was dragged

function showViews() {
  const canvas = document.getElementById("views");
  const scale = Math.max(1, Math.round(384 / told.height));
  canvas.width = told.width * scale;
  canvas.height = told.height * scale;
  const paper = canvas.getContext("2d");
  paper.imageSmoothingEnabled = false;
  const at = { column: (told.columns - 1) / 2, row: (told.rows - 1) / 2 };
  const held = (x, most) => Math.min(most - 1, Math.max(0, x));
  const sheet = new Image();
  const draw = () => {
    const [column, row] = [Math.round(at.column), Math.round(at.row)];
    paper.drawImage(sheet, column * told.width, row * told.height, told.width, told.height,
      0, 0, canvas.width, canvas.height);
    document.getElementById("where").textContent = `view ${column + 1} of ${told.columns}, ` +
      `row ${row + 1} of ${told.rows}`;
  };
  sheet.onload = draw;
  sheet.src = told.sheet;
  dragging(canvas, (x, y) => {
    at.column = held(at.column - x * told.columns / canvas.width * 2, told.columns);
    at.row = held(at.row + y * told.rows / canvas.height * 2, told.rows);
    draw();
  });
}

// Mesh

const VERTEX = `
attribute vec3 place; attribute vec3 normal; attribute vec3 colour;
uniform mat3 turned; varying vec3 shade;
void main() {
  vec3 at = turned * place, way = turned * normal;
  float light = 0.55 + 0.45 * max(0.0, dot(normalize(way), normalize(vec3(-0.5, 0.6, 0.6))));
  shade = colour * light;
  gl_Position = vec4(at.xy * 0.62, -at.z * 0.4, 1.0 - 0.12 * at.z);
}`;
const FRAGMENT = `
precision mediump float; varying vec3 shade;
void main() { gl_FragColor = vec4(shade, 1.0); }`;

function compiled(gl, kind, source) {
  const shader = gl.createShader(kind);
  gl.shaderSource(shader, source);
  gl.compileShader(shader);
  if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) {
    throw new Error(gl.getShaderInfoLog(shader));
  }
  return shader;
}

function attribute(gl, program, name, data, kind, normalized) {
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
  const place = gl.getAttribLocation(program, name);
  gl.enableVertexAttribArray(place);
  gl.vertexAttribPointer(place, 3, kind, normalized, 0, 0);
}

function rotation(yaw, pitch) {
  const [a, b] = [Math.cos(yaw), Math.sin(yaw)], [c, d] = [Math.cos(pitch), Math.sin(pitch)];
  return [a, b * d, -b * c, 0, c, d, b, -a * d, a * c];
}

function showMesh() {
  if ("without" in told) {
    document.getElementById("turn").textContent = told.without;
    return;
  }
  const canvas = document.getElementById("mesh");
  const gl = canvas.getContext("webgl", { preserveDrawingBuffer: true });
  if (gl === null || gl.getExtension("OES_element_index_uint") === null) {
    document.getElementById("turn").textContent = "this browser has no WebGL";
    return;
  }
  const program = gl.createProgram();
  gl.attachShader(program, compiled(gl, gl.VERTEX_SHADER, VERTEX));
  gl.attachShader(program, compiled(gl, gl.FRAGMENT_SHADER, FRAGMENT));
  gl.linkProgram(program);
  gl.useProgram(program);
  attribute(gl, program, "place", new Float32Array(bytes(told.vertices).buffer), gl.FLOAT, false);
  attribute(gl, program, "normal", new Float32Array(bytes(told.normals).buffer), gl.FLOAT, false);
  attribute(gl, program, "colour", bytes(told.colours), gl.UNSIGNED_BYTE, true);
  const faces = new Uint32Array(bytes(told.faces).buffer);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STATIC_DRAW);
  gl.enable(gl.DEPTH_TEST);
  gl.clearColor(1, 1, 1, 1);
  const at = { yaw: 0, pitch: 0 };
  const draw = () => {
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.uniformMatrix3fv(gl.getUniformLocation(program, "turned"), false,
      rotation(at.yaw, at.pitch));
    gl.drawElements(gl.TRIANGLES, faces.length, gl.UNSIGNED_INT, 0);
    const degrees = (x) => Math.round(x * 180 / Math.PI);
    document.getElementById("turn").textContent =
      `${degrees(at.yaw)} and ${degrees(at.pitch)} degrees`;
  };
  dragging(canvas, (x, y) => {
    at.yaw += x / 100;
    at.pitch = Math.min(1.5, Math.max(-1.5, at.pitch + y / 100));
    draw();
  });
  draw();
}

showViews();
showMesh();
